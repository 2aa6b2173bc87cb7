//! What the exit status says, so that scripts can use it.

use std::fmt;
use std::process::ExitCode;

/// The exit statuses of `cowscope`. `cowscope run` ends with the program's own status instead, and
/// so takes the values above 123 for its own trouble, as `timeout` and `docker run` do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// Something was found: `doctor` misses something, a check failed.
    Finding = 1,
    /// The command line is wrong.
    Usage = 2,
    /// An input cannot be read, or is of an incompatible version.
    Unreadable = 3,
    /// The trace is lossy or damaged, under `--strict`.
    Lossy = 4,
    /// `run` hit a time limit, or the machine hung.
    TimedOut = 124,
    /// `cowscope` itself could not do it: set-up, build, QEMU.
    Failed = 125,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error that knows its exit status. Any other error ends with [`Exit::Failed`].
#[derive(Debug)]
pub struct Failure {
    /// The status to end with.
    pub exit: Exit,
    message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A wrong command line: `message` says what to write instead.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Failure {
        exit: Exit::Usage,
        message: message.into(),
    }
    .into()
}

/// An input that cannot be read or understood.
pub fn unreadable(message: impl Into<String>) -> anyhow::Error {
    Failure {
        exit: Exit::Unreadable,
        message: message.into(),
    }
    .into()
}

/// The exit status for an error: that of the first [`Failure`] in its chain. None when a reader
/// of our output went away (`cowscope … | head`), which is no error and deserves no message.
pub fn status(error: &anyhow::Error) -> Option<Exit> {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return Some(failure.exit);
        }
        let io = cause.downcast_ref::<std::io::Error>().map(|io| io.kind());
        // This one does not name the error below it as its source.
        let json = cause.downcast_ref::<serde_json::Error>();
        let kind = io.or(json.and_then(serde_json::Error::io_error_kind));
        if kind == Some(std::io::ErrorKind::BrokenPipe) {
            return None;
        }
    }
    Some(
        error
            .downcast_ref::<Failure>()
            .map_or(Exit::Failed, |f| f.exit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn status_survives_context() {
        let error = Err::<(), _>(usage("no"))
            .context("while parsing")
            .unwrap_err();
        assert_eq!(status(&error), Some(Exit::Usage));
        assert_eq!(status(&anyhow::anyhow!("anything")), Some(Exit::Failed));
        let pipe = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(status(&pipe.context("writing")), None);
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let json = serde_json::Error::io(pipe);
        assert_eq!(status(&json.into()), None);
    }
}
