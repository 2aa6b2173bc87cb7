//! The first line of scripts: `#!`, an interpreter, perhaps one argument.

/// How much of a file the first line is looked for in (BINPRM_BUF_SIZE).
pub const HEAD: usize = 256;

/// What a first line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Script<'a> {
    /// The path of the interpreter.
    pub interpreter: &'a [u8],
    /// Its argument: the rest of the line, blanks and all.
    pub argument: Option<&'a [u8]>,
}

impl<'a> Script<'a> {
    /// Reads the first line as Linux does (fs/binfmt_script.c). None: it is no script, or a path
    /// that is empty or may be cut off.
    pub fn parse(file: &'a [u8]) -> Option<Script<'a>> {
        let head = &file[..file.len().min(HEAD)];
        let line = head.strip_prefix(b"#!")?;
        let newline = line.iter().position(|&byte| byte == b'\n');
        let line = trim(&line[..newline.unwrap_or(line.len())]);
        let ends = |byte: &u8| is_blank(*byte) || *byte == 0;
        let end = line.iter().position(ends);
        // Without an end the path may go on behind the head. The head of a short file ends with NULs.
        if newline.is_none() && end.is_none() && file.len() >= HEAD {
            return None;
        }
        let (interpreter, rest) = line.split_at(end.unwrap_or(line.len()));
        if interpreter.is_empty() {
            return None;
        }
        let argument = if rest.starts_with(b"\0") {
            &[]
        } else {
            trim(rest)
        };
        let argument = argument.split(|&byte| byte == 0).next().unwrap_or_default();
        Some(Script {
            interpreter,
            argument: (!argument.is_empty()).then_some(argument),
        })
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Without the blanks at both ends.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_blank(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_blank(*last)
    {
        text = rest;
    }
    text
}
