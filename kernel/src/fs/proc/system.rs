//! What the machine is.

use super::list::Word;
use super::text::Window;
use crate::arch::mmu;
use crate::fs::regular::QUOTA;
use crate::process::{clock, random, table};
use crate::{arch, board};
use core::fmt::{self, Write};
use memory::PAGE_SIZE;

/// The kernel's release, as uname has it.
const RELEASE: &str = "6.12.0-cowscope";

/// Writes one of the files.
pub fn write(to: &mut Window, word: Word) -> fmt::Result {
    let now = clock::monotonic();
    match word {
        Word::Meminfo => meminfo(to),
        Word::Cpuinfo => cpuinfo(to),
        Word::Uptime => {
            let (seconds, hundredths) = (now / 1_000_000_000, now / 10_000_000 % 100);
            writeln!(to, "{seconds}.{hundredths:02} 0.00")
        }
        Word::Stat => {
            // Times are not counted.
            writeln!(to, "cpu  0 0 0 0 0 0 0 0 0 0")?;
            for cpu in 0..board::board().cpus {
                writeln!(to, "cpu{cpu} 0 0 0 0 0 0 0 0 0 0")?;
            }
            writeln!(to, "btime 0\nprocesses {}", table::count())
        }
        Word::Loadavg => writeln!(to, "0.00 0.00 0.00 1/{} 1", table::count()),
        Word::Version => writeln!(to, "Linux version {RELEASE} (cowscope) #1 SMP Cowscope"),
        Word::Mounts => to.write_str("rootfs / tmpfs rw 0 0\nproc /proc proc rw 0 0\n"),
        Word::Filesystems => to.write_str("nodev\ttmpfs\nnodev\tproc\nnodev\tpipefs\n"),
        Word::Ostype => to.write_str("Linux\n"),
        Word::Osrelease => writeln!(to, "{RELEASE}"),
        Word::Hostname => to.write_str("cowscope\n"),
        Word::PidMax => writeln!(to, "{}", table::limit()),
        Word::Uuid => uuid(to, random_bytes()),
        Word::BootId => {
            static BOOT: spin::Once<[u8; 16]> = spin::Once::new();
            uuid(to, *BOOT.call_once(random_bytes))
        }
        Word::Overcommit => to.write_str("1\n"),
        Word::PipeMax => writeln!(to, "{}", crate::fs::pipe::MAX_SIZE),
        Word::Somaxconn => to.write_str("4096\n"),
    }
}

fn random_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    random::fill(&mut bytes);
    bytes
}

fn uuid(to: &mut Window, mut bytes: [u8; 16]) -> fmt::Result {
    // RFC 9562: version 4, variant 10.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    for (index, byte) in bytes.into_iter().enumerate() {
        let dash = if matches!(index, 4 | 6 | 8 | 10) {
            "-"
        } else {
            ""
        };
        write!(to, "{dash}{byte:02x}")?;
    }
    to.push(b"\n")
}

fn meminfo(to: &mut Window) -> fmt::Result {
    let frames = &mmu::memory().frames;
    let kilobytes = |frames: u64| frames * PAGE_SIZE / 1024;
    let free = kilobytes(frames.free_count());
    let (files, _) = QUOTA.state();
    for (name, value) in [
        ("MemTotal:", kilobytes(frames.total())),
        ("MemFree:", free),
        ("MemAvailable:", free),
        ("Buffers:", 0),
        ("Cached:", kilobytes(files)),
        ("SwapCached:", 0),
        ("SwapTotal:", 0),
        ("SwapFree:", 0),
        ("Shmem:", kilobytes(files)),
    ] {
        writeln!(to, "{name:<16}{value:8} kB")?;
    }
    Ok(())
}

fn cpuinfo(to: &mut Window) -> fmt::Result {
    let midr = arch::cpu::midr();
    for cpu in 0..board::board().cpus {
        writeln!(
            to,
            "processor\t: {cpu}\nCPU implementer\t: {:#04x}\nCPU architecture: 8\n\
             CPU variant\t: {:#x}\nCPU part\t: {:#05x}\nCPU revision\t: {}\n",
            midr >> 24 & 0xff,
            midr >> 20 & 0xf,
            midr >> 4 & 0xfff,
            midr & 0xf
        )?;
    }
    Ok(())
}
