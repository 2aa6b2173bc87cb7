//! The kernel's command line.

use anyhow::Result;

use super::Board;
use crate::exit::usage;

/// Boot arguments: words for the kernel, and after a lone `--` those of the first program.
#[derive(Clone, Debug, Default)]
pub struct BootArgs {
    kernel: Vec<String>,
    program: Vec<String>,
}

impl BootArgs {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A word for the kernel that is known to need no quotes, such as `lossless`.
    pub fn flag(&mut self, word: &str) -> &mut Self {
        self.kernel.push(word.to_owned());
        self
    }

    /// `name=value` for the kernel.
    pub fn set(&mut self, name: &str, value: impl ToString) -> Result<&mut Self> {
        self.kernel
            .push(quote(&format!("{name}={}", value.to_string()))?);
        Ok(self)
    }

    /// Words that are quoted already, by whoever wrote them.
    pub fn raw(&mut self, words: &str) -> Result<&mut Self> {
        if words.chars().any(char::is_control) {
            return Err(usage(
                "a boot argument cannot have control characters in it",
            ));
        }
        self.kernel.push(words.to_owned());
        Ok(self)
    }

    /// The arguments of the first program, without its name.
    pub fn program(&mut self, args: &[String]) -> Result<&mut Self> {
        self.program = args.iter().map(|a| quote(a)).collect::<Result<_>>()?;
        Ok(self)
    }

    /// The line for this board.
    pub fn line(&self, board: Board) -> Result<String> {
        let mut line = self.kernel.join(" ");
        if !self.program.is_empty() {
            line += " -- ";
            line += &self.program.join(" ");
        }
        let most = most_bytes(board);
        if line.len() > most {
            return Err(usage(format!(
                "the boot arguments come to {} bytes, and {board} takes {most}: shorten the program's \
                 arguments, or use --board virt",
                line.len()
            )));
        }
        Ok(line)
    }
}

/// Without a device tree QEMU's Pis get an ATAG list at 0x100, which runs into the code for the
/// other cores at 0x300 when it is too long: 512 bytes less the other tags (72).
fn most_bytes(board: Board) -> usize {
    match board {
        Board::Virt => 4096,
        Board::Raspi3b | Board::Raspi4b => 440,
    }
}

/// One word in the kernel's syntax, in which double quotes group and nothing escapes.
fn quote(word: &str) -> Result<String> {
    if word.chars().any(|c| c == '"' || c.is_control()) {
        return Err(usage(format!(
            "`{}`: boot arguments have no way to write double quotes or control characters",
            word.escape_debug()
        )));
    }
    Ok(
        match word.is_empty() || word.contains(char::is_whitespace) {
            true => format!("\"{word}\""),
            false => word.to_owned(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kept_apart() {
        let mut args = BootArgs::new();
        args.set("init", "/bin/my prog")
            .unwrap()
            .flag("semihosting")
            .set("seed", 7)
            .unwrap();
        args.program(&["a b".into(), "--".into(), String::new()])
            .unwrap();
        let line = args.line(Board::Virt).unwrap();
        assert_eq!(
            line,
            r#""init=/bin/my prog" semihosting seed=7 -- "a b" -- """#
        );
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        assert!(BootArgs::new().set("init", "a\"b").is_err());
        assert!(BootArgs::new().program(&["two\nlines".into()]).is_err());
        assert!(BootArgs::new().raw("two\nlines").is_err());
    }

    #[test]
    fn a_pi_takes_less() {
        let mut args = BootArgs::new();
        args.program(&["x".repeat(500)]).unwrap();
        assert!(args.line(Board::Virt).is_ok());
        assert!(
            args.line(Board::Raspi3b)
                .unwrap_err()
                .to_string()
                .contains("440")
        );
    }
}
