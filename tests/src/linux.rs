//! Debian's arm64 kernel as the oracle, where `qemu-aarch64` is none: fork, signals, and what is said of
//! memory. One boot of each kernel runs all cases.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tools::image::Initramfs;
use tools::machine::{self, Board, Ending, Hardware, Limits, Setup};
use tools::progress::Progress;
use tools::setup::linux;

use crate::batch::{self, Case, END, FILE, Outcome, text};
use crate::boot::Boot;
use crate::run::Run;
use crate::system::system;

/// Far more than all cases take on a machine that is not busy.
const TIME: Duration = Duration::from_secs(400);

/// Silent, with what our kernel has: no huge pages, no address that differs from boot to boot, no memory
/// that is promised twice; and an end instead of a halt when something is wrong.
const BOOT_ARGUMENTS: &str = "console=ttyAMA0 loglevel=0 panic=-1 norandmaps \
    transparent_hugepage=never mitigations=off init_on_alloc=0 sysctl.vm.overcommit_memory=2 \
    sysctl.vm.overcommit_ratio=100 rdinit=/init";

/// A file that both kernels are given.
#[derive(Clone, Debug)]
pub struct Extra {
    /// Where it is in the guest.
    pub path: &'static str,
    /// Where it is on this machine.
    pub file: PathBuf,
}

/// Runs the cases on Debian's kernel.
fn theirs(cases: &[Case], extra: &[Extra]) -> Result<Vec<Outcome>> {
    let system = system();
    let mut root = tools::image::root(&system.built.programs)?;
    for Extra { path, file } in extra {
        root.file(path, read(file)?)?;
    }
    root.insert(FILE.as_bytes(), batch::file(cases))?;
    let said = boot(
        &root,
        &format!("{BOOT_ARGUMENTS} -- /bin/batch --boot {FILE}"),
    )?;
    // What firmware and kernel may have said before.
    let begin = format!("{}begin\n", char::from(END)).into_bytes();
    let start = said.windows(begin.len()).position(|window| window == begin);
    let parsed = match start {
        Some(start) => parse(&said[start + begin.len()..]),
        None => bail!(
            "it did not begin; it said:\n{}",
            String::from_utf8_lossy(&said)
        ),
    };
    parsed.with_context(|| format!("what it said: {}", String::from_utf8_lossy(&said)))
}

/// Boots Debian's kernel, with the machine that ours has; what came from the console.
fn boot(root: &Initramfs, arguments: &str) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let initrd = folder.path().join("initramfs.cpio");
    std::fs::write(&initrd, root.archive()).context("cannot write the initramfs")?;
    let setup = Setup {
        qemu: system().qemu.clone(),
        hardware: Hardware::of(Board::Virt),
        kernel: linux::kernel(&Progress::new(false))?,
        initrd,
        tree: None,
        bootargs: arguments.to_owned(),
        wire: folder.path().join("console"),
        input: None,
        deterministic: None,
    };
    let limits = Limits {
        total: Some(TIME),
        silence: None,
    };
    let mut bytes = Vec::new();
    let ended = machine::run(&setup, limits, |more| {
        bytes.extend_from_slice(more);
        Ok(())
    })?;
    ensure!(
        ended.ending == Ending::Exited(0),
        "Debian's kernel: {:?} after {:.0} s\nQEMU says: {}\n{}",
        ended.ending,
        ended.elapsed.as_secs_f64(),
        ended.stderr,
        String::from_utf8_lossy(&bytes)
    );
    Ok(bytes)
}

/// Runs the cases on our kernel.
fn ours(boot: Boot, cases: &[Case], extra: &[Extra]) -> Result<(Run, Vec<Outcome>)> {
    let mut boot = boot.lossless().entry(FILE, batch::file(cases));
    for Extra { path, file } in extra {
        boot = boot.file(path, read(file)?);
    }
    let run = boot.append("terminal=").run(&["batch", "--capture", FILE]);
    let outcomes = parse(&run.trace.stdout).with_context(|| format!("stderr: {}", run.stderr()))?;
    Ok((run, outcomes))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// What `batch --capture` prints.
fn parse(mut bytes: &[u8]) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    while let Some(rest) = bytes.strip_prefix(&[END]) {
        let end = rest.iter().position(|&byte| byte == b'\n');
        let (line, rest) = rest.split_at(end.context("a line without an end")?);
        let numbers = str::from_utf8(line)?.split(' ');
        let numbers: Vec<usize> = numbers.map(str::parse).collect::<Result<_, _>>()?;
        let [status, out, err] = numbers[..] else {
            bail!("{numbers:?} is no status and two lengths");
        };
        let rest = &rest[1..];
        ensure!(out + err < rest.len(), "the console ends too early");
        let (written, rest) = rest.split_at(out + err);
        let (stdout, stderr) = written.split_at(out);
        outcomes.push(Outcome {
            status: status as i32,
            stdout: text(stdout),
            stderr: text(stderr),
        });
        bytes = rest
            .strip_prefix(b"\n")
            .context("no line's end behind a case")?;
    }
    Ok(outcomes)
}

/// Fails unless all cases do the same on both kernels, but for lines that `differs` has a reason for.
#[track_caller]
pub fn compare(cases: &[Case], extra: &[Extra], differs: fn(&Case, &str) -> bool) -> Run {
    let linux = std::thread::scope(|scope| {
        let linux = scope.spawn(|| theirs(cases, extra));
        let ours = ours(Boot::on(Board::Virt), cases, extra);
        let linux = linux.join().expect("the other kernel's thread");
        (ours, linux)
    });
    let (run, ours) = linux
        .0
        .unwrap_or_else(|error| panic!("our kernel: {error:#}"));
    let theirs = linux
        .1
        .unwrap_or_else(|error| panic!("Debian's kernel: {error:#}"));
    for (name, outcomes) in [("ours", &ours), ("Debian's", &theirs)] {
        assert_eq!(outcomes.len(), cases.len(), "not all were run on {name}");
    }
    let mut differences = String::new();
    for ((case, ours), theirs) in cases.iter().zip(&ours).zip(&theirs) {
        let difference = difference(ours, theirs, |line| differs(case, line));
        if !difference.is_empty() {
            differences += &format!("{}\n{difference}", case.arguments.join(" "));
        }
    }
    assert!(
        differences.is_empty(),
        "these differ (- Debian's kernel, + ours):\n{differences}"
    );
    run
}

/// The lines that only one of the two has.
fn difference(ours: &Outcome, theirs: &Outcome, differs: impl Fn(&str) -> bool) -> String {
    let mut difference = String::new();
    if ours.status != theirs.status {
        difference += &format!("  - status {}\n  + status {}\n", theirs.status, ours.status);
    }
    for (ours, theirs) in [
        (&ours.stdout, &theirs.stdout),
        (&ours.stderr, &theirs.stderr),
    ] {
        let lines = |text: &'_ str| -> Vec<String> {
            let lines = text.lines().filter(|line| !differs(line));
            lines.map(str::to_owned).collect()
        };
        let (mut ours, mut theirs) = (&lines(ours)[..], &lines(theirs)[..]);
        while ours != theirs {
            let same = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
            let shown = ours;
            (ours, theirs) = (&ours[same..], &theirs[same..]);
            let (mine, other) = next_same(ours, theirs);
            // What it is about.
            if let Some(before) = same.checked_sub(1).and_then(|last| shown.get(last)) {
                difference += &format!("    {before}\n");
            }
            for line in &theirs[..other] {
                difference += &format!("  - {line}\n");
            }
            for line in &ours[..mine] {
                difference += &format!("  + {line}\n");
            }
            (ours, theirs) = (&ours[mine..], &theirs[other..]);
        }
    }
    difference
}

/// How many lines to pass in each until they are the same again.
fn next_same(ours: &[String], theirs: &[String]) -> (usize, usize) {
    let most = ours.len() + theirs.len();
    for passed in 1..most {
        for mine in passed.saturating_sub(theirs.len())..=passed.min(ours.len()) {
            let other = passed - mine;
            if let (Some(a), Some(b)) = (ours.get(mine), theirs.get(other))
                && a == b
            {
                return (mine, other);
            }
        }
    }
    (ours.len(), theirs.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_batch_prints_is_read() {
        let said = b"\x1e3 4 2\na\x1eb\ncd\n\x1e0 0 0\n\n";
        let outcomes = parse(said).unwrap();
        assert_eq!(outcomes.len(), 2);
        assert_eq!((outcomes[0].status, outcomes[1].status), (3, 0));
        assert_eq!(outcomes[0].stdout, "a\x1eb\n");
        assert_eq!(outcomes[0].stderr, "cd");
        for cut in [2, 8, 12, 13] {
            assert!(parse(&said[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn differences_are_shown_line_by_line() {
        let outcome = |status, stdout: &str| Outcome {
            status,
            stdout: stdout.to_owned(),
            stderr: String::new(),
        };
        let (ours, theirs) = (outcome(0, "a\nx\nb\nc\n"), outcome(1, "a\nb\ny\nc\nd\n"));
        let said = difference(&ours, &theirs, |_| false);
        let expected = "  - status 1\n  + status 0\n    a\n  + x\n    b\n  - y\n    c\n  - d\n";
        assert_eq!(said, expected);
        assert_eq!(difference(&ours, &ours, |_| false), "");
        let status = outcome(0, "a\nb\nc\nd\n");
        assert_eq!(
            difference(&ours, &status, |line| ["x", "d"].contains(&line)),
            ""
        );
    }
}
