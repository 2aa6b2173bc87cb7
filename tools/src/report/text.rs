//! Numbers, times and tables as people read them; styles.

use std::fmt::Display;

use anstyle::{AnsiColor, Style};

/// Headings.
pub const HEAD: Style = Style::new().bold();
/// Less important.
pub const DIM: Style = Style::new().dimmed();
/// What the eye should find: addresses and frames that are compared.
pub const MARK: Style = AnsiColor::Cyan.on_default();
/// As it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// As it should not be.
pub const BAD: Style = AnsiColor::Red.on_default().bold();

/// `text` in a style.
pub fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// With separators: 1,234,567.
pub fn count(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 page`, `2 pages`.
pub fn plural(number: impl Into<u64>, noun: &str) -> String {
    let number = number.into();
    if number == 1 {
        return format!("1 {noun}");
    }
    let number = count(number);
    if let Some(stem) = noun.strip_suffix("opy") {
        format!("{number} {stem}opies")
    } else if noun.ends_with("ch") || noun.ends_with("ss") {
        format!("{number} {noun}es")
    } else {
        format!("{number} {noun}s")
    }
}

/// A time span in ticks of the counter.
pub fn span(ticks: u64, hz: u64) -> String {
    let seconds = ticks as f64 / hz.max(1) as f64;
    if seconds >= 10.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 1.0 {
        format!("{seconds:.3} s")
    } else if seconds >= 1e-3 {
        format!("{:.3} ms", seconds * 1e3)
    } else {
        format!("{:.2} us", seconds * 1e6)
    }
}

/// Microseconds of the counter, for listings: all lines in the same unit.
pub fn micros(ticks: u64, hz: u64) -> f64 {
    ticks as f64 * 1e6 / hz.max(1) as f64
}

/// `rwx`, with `-` for what is missing.
pub fn protection(prot: u8) -> String {
    let letters = "rwx".chars().enumerate();
    letters
        .map(|(bit, letter)| if prot >> bit & 1 == 1 { letter } else { '-' })
        .collect()
}

/// Bytes in the largest unit that keeps them whole, or in MiB with a decimal.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in UNITS {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
        if shift == 20 && bytes >= 1 << shift {
            return format!("{:.1} {unit}", bytes as f64 / f64::from(1 << shift));
        }
    }
    format!("{bytes} B")
}

/// The core that a MIDR_EL1 names.
pub fn cpu_name(midr: u64) -> String {
    let (implementer, part) = (midr >> 24 & 0xff, midr >> 4 & 0xfff);
    let name = match (implementer, part) {
        (0x41, 0xd03) => "Cortex-A53",
        (0x41, 0xd04) => "Cortex-A35",
        (0x41, 0xd05) => "Cortex-A55",
        (0x41, 0xd07) => "Cortex-A57",
        (0x41, 0xd08) => "Cortex-A72",
        (0x41, 0xd09) => "Cortex-A73",
        (0x41, 0xd0a) => "Cortex-A75",
        (0x41, 0xd0b) => "Cortex-A76",
        (0x41, 0xd0c) => "Neoverse N1",
        (0x41, 0xd40) => "Neoverse V1",
        (0x41, 0xd41) => "Cortex-A78",
        (0x41, 0xd46) => "Cortex-A510",
        (0x41, 0xd47) => "Cortex-A710",
        (0x41, 0xd49) => "Neoverse N2",
        // QEMU's `-cpu max`.
        (0x00, 0x051) => "QEMU max",
        _ => return format!("MIDR {midr:#x}"),
    };
    format!("{name} r{}p{}", midr >> 20 & 0xf, midr & 0xf)
}

/// Linux's name of a signal.
pub fn signal_name(signal: u8) -> String {
    const NAMES: [(u8, &str); 12] = [
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (5, "SIGTRAP"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
        (31, "SIGSYS"),
    ];
    let known = NAMES.iter().find(|(number, _)| *number == signal);
    known.map_or_else(
        || format!("signal {signal}"),
        |(_, name)| (*name).to_owned(),
    )
}

/// How a process ended, from its wait status.
pub fn wait_status(status: u32) -> String {
    match status & 0x7f {
        0 => format!("exit code {}", status >> 8 & 0xff),
        signal => format!("killed by {}", signal_name(signal as u8)),
    }
}

/// Rows in columns: the first column and those in `left` aligned left, the others right. The first
/// row is the heading.
pub fn table(rows: &[Vec<String>], left: &[usize], indent: &str) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let length = |cell: &String| cell.chars().count();
    let width = |column| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(length)
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut line = indent.to_owned();
        for (column, cell) in row.iter().enumerate() {
            if column > 0 {
                line.push_str("  ");
            }
            let pad = " ".repeat(widths[column].saturating_sub(length(cell)));
            if column == 0 || left.contains(&column) {
                line.push_str(cell);
                line.push_str(&pad);
            } else {
                line.push_str(&pad);
                line.push_str(cell);
            }
        }
        let line = line.trim_end();
        if index == 0 {
            text.push_str(&styled(DIM, line));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(count(1_234_567u64), "1,234,567");
        assert_eq!(count(12u64), "12");
        assert_eq!(plural(2u64, "copy"), "2 copies");
        assert_eq!(plural(1u64, "page"), "1 page");
        assert_eq!(plural(0u64, "switch"), "0 switches");
        assert_eq!(span(62_500, 62_500_000), "1.000 ms");
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(bytes((1 << 30) - 4096), "1024.0 MiB");
        assert_eq!(bytes(12 << 10), "12 KiB");
        assert_eq!(cpu_name(0x410F_D034), "Cortex-A53 r0p4");
        assert_eq!(wait_status(11), "killed by SIGSEGV");
        assert_eq!(wait_status(3 << 8), "exit code 3");
        assert_eq!(protection(5), "r-x");
    }
}
