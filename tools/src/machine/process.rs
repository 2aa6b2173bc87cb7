//! Runs a machine to its end, and hands on what it sends as it comes.

use std::fs::File;
use std::io::{self, Read};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Setup;
use crate::interrupt;

/// When to give up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// After this long in all.
    pub total: Option<Duration>,
    /// When nothing at all has been sent for this long. A live kernel says hello every two seconds.
    pub silence: Option<Duration>,
}

/// Why a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// QEMU ended with this status: the guest's, unless QEMU could not run it.
    Exited(i32),
    /// QEMU was killed by this signal, not by us.
    Killed(i32),
    /// [`Limits::total`]
    TimedOut,
    /// [`Limits::silence`]
    Silent,
    /// The user's wish.
    Interrupted,
}

/// How a machine ended.
#[derive(Debug)]
pub struct Ended {
    /// Why.
    pub ending: Ending,
    /// What QEMU said on its standard error, or the end of it.
    pub stderr: String,
    /// Wall-clock time.
    pub elapsed: Duration,
    /// Bytes sent by the machine.
    pub bytes: u64,
}

const POLL: Duration = Duration::from_millis(5);

/// Runs the machine. `sink` gets the bytes of the wire in order, while they also go to
/// `setup.wire`, and is called with none now and then, so that it can show the time passing.
pub fn run(
    setup: &Setup,
    limits: Limits,
    mut sink: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Ended> {
    // QEMU creates the file as well, but only after a while.
    File::create(&setup.wire).with_context(|| format!("cannot write {}", setup.wire.display()))?;
    let mut wire =
        File::open(&setup.wire).with_context(|| format!("cannot read {}", setup.wire.display()))?;
    let mut machine = Machine::start(setup.command())?;

    let start = Instant::now();
    let mut last = start;
    let mut bytes = 0;
    let mut buffer = vec![0; 64 << 10];
    let ending = loop {
        // Asked before the last read, so that nothing sent before the end is missed.
        let status = machine.child.try_wait().context("cannot wait for QEMU")?;
        let before = bytes;
        loop {
            let n = wire.read(&mut buffer).context("cannot read the trace")?;
            if n == 0 {
                break;
            }
            bytes += n as u64;
            sink(&buffer[..n])?;
        }
        if let Some(status) = status {
            break ending(status);
        }
        let now = Instant::now();
        if bytes > before {
            last = now;
        }
        if interrupt::requested() {
            break Ending::Interrupted;
        }
        if limits.total.is_some_and(|limit| now - start >= limit) {
            break Ending::TimedOut;
        }
        if limits.silence.is_some_and(|limit| now - last >= limit) {
            break Ending::Silent;
        }
        if bytes == before {
            sink(&[])?;
            thread::sleep(POLL);
        }
    };
    let elapsed = start.elapsed();
    let stderr = machine.end();
    Ok(Ended {
        ending,
        stderr,
        elapsed,
        bytes,
    })
}

fn ending(status: ExitStatus) -> Ending {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return Ending::Killed(signal);
    }
    Ending::Exited(status.code().unwrap_or(-1))
}

/// A running QEMU, which does not outlive this value.
struct Machine {
    child: Child,
    stderr: Option<JoinHandle<String>>,
}

impl Machine {
    fn start(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        detach(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let stderr = child.stderr.take().map(|pipe| thread::spawn(|| tail(pipe)));
        Ok(Self { child, stderr })
    }

    /// Ends it, if it has not ended by itself, and gives what it said on standard error.
    fn end(mut self) -> String {
        self.kill();
        self.stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }

    fn kill(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Keeps Ctrl-C of the terminal away from QEMU (we end it ourselves, when its last bytes are read),
/// and on Linux ends it with us even if we are killed outright.
fn detach(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is a bare
    // system call, and this option takes one integer and touches no memory.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(command, || {
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// Reads to the end, and keeps the last part.
fn tail(mut pipe: ChildStderr) -> String {
    const KEEP: usize = 16 << 10;
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => kept.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
        if kept.len() > 2 * KEEP {
            kept.drain(..kept.len() - KEEP);
        }
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::machine::{Board, Hardware};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// A stand-in for QEMU: a script that is given QEMU's command line, with the wire as `$wire`.
    fn setup(dir: &Path, script: &str) -> Setup {
        let qemu = dir.join("qemu");
        let wire = dir.join("wire");
        std::fs::write(
            &qemu,
            format!("#!/bin/sh\nwire='{}'\n{script}\n", wire.display()),
        )
        .unwrap();
        std::fs::set_permissions(&qemu, PermissionsExt::from_mode(0o755)).unwrap();
        Setup {
            qemu,
            hardware: Hardware::of(Board::Virt),
            kernel: "k".into(),
            initrd: "i".into(),
            tree: None,
            bootargs: String::new(),
            wire,
            input: None,
            deterministic: None,
        }
    }

    fn run_script(script: &str, limits: Limits) -> (Ended, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let mut got = Vec::new();
        let ended = run(&setup(dir.path(), script), limits, |bytes| {
            got.extend_from_slice(bytes);
            Ok(())
        });
        (ended.unwrap(), got)
    }

    #[test]
    fn everything_arrives_and_the_status_is_kept() {
        let (ended, got) = run_script(
            "printf one >>$wire; sleep 0.1; printf two >>$wire; echo oops >&2; exit 7",
            Limits::default(),
        );
        assert_eq!(ended.ending, Ending::Exited(7));
        assert_eq!((got.as_slice(), ended.bytes), (b"onetwo".as_slice(), 6));
        assert_eq!(ended.stderr, "oops");
    }

    #[test]
    fn silence_is_not_the_same_as_length() {
        let limits = |total, silence| Limits {
            total: Some(Duration::from_millis(total)),
            silence: Some(Duration::from_millis(silence)),
        };
        let chatty = "while :; do printf x >>$wire; sleep 0.05; done";
        assert_eq!(
            run_script(chatty, limits(1000, 600)).0.ending,
            Ending::TimedOut
        );
        let (ended, _) = run_script("exec sleep 30", limits(20_000, 300));
        assert_eq!(ended.ending, Ending::Silent);
        assert!(ended.elapsed < Duration::from_secs(10));
    }

    #[test]
    fn a_signal_is_told_from_a_status() {
        assert_eq!(
            run_script("kill -9 $$", Limits::default()).0.ending,
            Ending::Killed(9)
        );
    }

    #[test]
    fn a_missing_qemu_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut setup = setup(dir.path(), "");
        setup.qemu = dir.path().join("absent");
        let error = run(&setup, Limits::default(), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
