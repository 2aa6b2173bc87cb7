//! Completion scripts and manual pages, from the command line's own definition.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit::{Exit, usage};

/// Prints a completion script.
///
/// # Errors
/// When writing fails.
pub fn completions(shell: clap_complete::Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cowscope", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Exit::Ok.into())
}

/// Prints the manual page of the tool, or of one of its commands, for `man -l -`.
///
/// # Errors
/// When there is no such command, or writing fails.
pub fn page(command: Option<&str>) -> Result<ExitCode> {
    let mut cli = Cli::command();
    cli.build();
    let shown = match command {
        None => cli,
        Some(name) => cli
            .find_subcommand(name)
            .ok_or_else(|| usage(format!("no command {name}")))?
            .clone(),
    };
    clap_mangen::Man::new(shown).render(&mut io::stdout())?;
    Ok(Exit::Ok.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands() {
            let mut text = Vec::new();
            let page = clap_mangen::Man::new(command.clone());
            page.render(&mut text)
                .expect("writes to memory do not fail");
            assert!(!text.is_empty(), "{}", command.get_name());
        }
        assert!(page(Some("nothing")).is_err());
    }
}
