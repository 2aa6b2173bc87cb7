//! `cowscope doctor --board`: what a board is, and how its firmware left it. For the first person with
//! a board on which something is not as expected, and for whoever they send it to.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use base64::Engine;
use boards::{Board, guess};
use chain::{FIRST_BAUD, Here};
use serde_json::{Value, json};

use super::Client;
use crate::cli::DoctorFormat;
use crate::exit::Exit;
use crate::interrupt;
use crate::progress::Progress;
use crate::record::SourceName;
use crate::serial::Line;

/// Something that was expected of the board, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    what: &'static str,
    ok: bool,
    found: String,
}

/// `cowscope doctor --board LINE`
pub fn run(line: &SourceName, format: DoctorFormat) -> Result<ExitCode> {
    interrupt::watch();
    let progress = Progress::new(false);
    let mut client = Client::new(Line::open(line, FIRST_BAUD)?);
    progress.step("waiting for the loader: switch the board on");
    let here = client.meet()?;
    progress.step("asking the loader");
    let facts = client.facts()?;
    let tree = client.tree(&here)?;
    progress.finish();
    let board = describe(&here, &tree);
    let checks = checks(&here, &facts, &board);
    let mut out = std::io::stdout();
    match format {
        DoctorFormat::Text => out.write_all(text(&facts, &board, &checks).as_bytes())?,
        DoctorFormat::Json => writeln!(out, "{:#}", json(&facts, &tree, &board, &checks))?,
    }
    let healthy = checks.iter().all(|check| check.ok);
    Ok(if healthy { Exit::Ok } else { Exit::Finding }.into())
}

/// The board, as the kernel would see it; why not, if its tree is of no use.
fn describe(here: &Here, tree: &[u8]) -> Result<Board, &'static str> {
    const KERNEL: std::ops::Range<u64> = 0x20_0000..0xa0_0000;
    let (soc, serial) = guess(KERNEL.start, here.midr);
    let mut board = Board::new(soc, serial);
    if tree.is_empty() {
        return Err("the firmware left no device tree");
    }
    // For as long as this process is, and it ends soon.
    let tree: &'static [u8] = tree.to_vec().leak();
    board.read_tree(tree, 0..0)?;
    board.finish(&KERNEL, 0)?;
    Ok(board)
}

fn checks(here: &Here, facts: &[(String, u64)], board: &Result<Board, &'static str>) -> Vec<Check> {
    let fact = |name: &str| {
        let found = facts.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| *value)
    };
    let mut all = Vec::new();
    let mut check = |what, ok, found: String| all.push(Check { what, ok, found });
    let part = here.midr >> 4 & 0xfff;
    let core = match part {
        0xd03 => "Cortex-A53",
        0xd08 => "Cortex-A72",
        0xd0b => "Cortex-A76",
        _ => "unknown",
    };
    check(
        "the core is one that we know",
        here.midr >> 24 == 0x41 && core != "unknown",
        format!("{core}, MIDR {:#x}", here.midr),
    );
    check(
        "the firmware starts kernels at EL2",
        here.level == 2,
        format!("EL{}", here.level),
    );
    if let Some(value) = fact("CPUECTLR_EL1") {
        check(
            "the core is coherent with the others (SMPEN)",
            value & 1 << 6 != 0,
            format!("CPUECTLR_EL1 {value:#x}"),
        );
    }
    if let Some(value) = fact("SCTLR_EL2") {
        check(
            "MMU and data cache are off at entry",
            value & 5 == 0,
            format!("SCTLR_EL2 {value:#x}"),
        );
    }
    if let Some(hz) = fact("CNTFRQ_EL0") {
        let expected = if part == 0xd03 {
            19_200_000
        } else {
            54_000_000
        };
        check(
            "the counter runs as fast as on this board",
            hz == expected,
            format!("{hz} Hz, {expected} expected (QEMU has 62500000)"),
        );
    }
    match board {
        Err(why) => check(
            "the kernel's code reads the device tree",
            false,
            (*why).into(),
        ),
        Ok(board) => {
            check(
                "the kernel's code reads the device tree",
                board.soc == guess(0, here.midr).0,
                format!("{} ({}), {:?}", board.name, board.model, board.soc),
            );
            check(
                "there is an interrupt controller",
                board.interrupts.is_some(),
                format!("{:x?}", board.interrupts),
            );
            check(
                "every core can be started",
                board
                    .cores()
                    .iter()
                    .all(|core| core.start != boards::StartMethod::None),
                format!("{:x?}", board.cores()),
            );
            check(
                "there is RAM for kernel and programs",
                board.free.bytes() >= 256 << 20,
                format!(
                    "{} MiB, {} of them free",
                    board.ram.bytes() >> 20,
                    board.free.bytes() >> 20
                ),
            );
        }
    }
    all
}

fn text(facts: &[(String, u64)], board: &Result<Board, &'static str>, checks: &[Check]) -> String {
    let mut text = String::new();
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts {
        text += &format!("{name:width$}  {value:#x} ({value})\n");
    }
    if let Ok(board) = board {
        text += &format!("\n{board:#x?}\n");
    }
    text.push('\n');
    for check in checks {
        let state = if check.ok { "ok       " } else { "DIFFERENT" };
        text += &format!("{state}  {}: {}\n", check.what, check.found);
    }
    text
}

fn json(
    facts: &[(String, u64)],
    tree: &[u8],
    board: &Result<Board, &'static str>,
    checks: &[Check],
) -> Value {
    let facts: serde_json::Map<String, Value> = facts
        .iter()
        .map(|(name, value)| (name.clone(), json!(format!("{value:#x}"))))
        .collect();
    let checks: Vec<_> = checks
        .iter()
        .map(|check| json!({ "what": check.what, "ok": check.ok, "found": check.found }))
        .collect();
    json!({
        "schema_version": 1,
        "facts": facts,
        "board": match board {
            Ok(board) => format!("{board:x?}"),
            Err(why) => (*why).to_owned(),
        },
        "device_tree_base64": base64::engine::general_purpose::STANDARD.encode(tree),
        "checks": checks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_said() {
        let here = Here {
            version: 1,
            midr: 0x410f_d034,
            level: 1,
            tree: 0,
            own: [0, 0],
            rates: true,
        };
        let facts = [
            ("CNTFRQ_EL0".to_owned(), 19_200_000),
            ("CPUECTLR_EL1".to_owned(), 0),
        ];
        let board = describe(&here, &[]);
        let checks = checks(&here, &facts, &board);
        let of = |word: &str| {
            let found = checks.iter().find(|check| check.what.contains(word));
            found.unwrap_or_else(|| panic!("{word}: {checks:?}")).ok
        };
        assert!(of("one that we know") && of("counter"));
        assert!(!of("EL2") && !of("SMPEN") && !of("device tree"));
        let text = text(&facts, &board, &checks);
        assert!(
            text.contains("DIFFERENT  the firmware starts kernels at EL2: EL1"),
            "{text}"
        );
        let json = json(&facts, b"tree", &board, &checks);
        assert_eq!(json["device_tree_base64"], "dHJlZQ==");
        assert_eq!(json["facts"]["CNTFRQ_EL0"], "0x124f800");
    }
}
