//! `cowscope`: runs programs on a kernel that makes copy-on-write visible, and explains what it saw.

use std::process::ExitCode;

use clap::Parser;
use tools::cli::{Cli, Command};
use tools::exit::{self, Exit};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli
        .command
        .or_else(|| Cli::parse_from(["cowscope", "run"]).command);
    let result = match command.expect("clap was given a command") {
        Command::Run(args) => tools::run::run(&args),
        Command::Image(args) => tools::card::run(&args),
        Command::Boot(args) => tools::boot::run(&args),
        Command::Record(args) => tools::record::run(&args),
        Command::Report(args) => args.run().map(ExitCode::from),
        Command::Faults(args) => args.run().map(ExitCode::from),
        Command::Explain(args) => args.run().map(ExitCode::from),
        Command::Top(args) => tools::top::run(&args),
        Command::Memory(args) => args.run().map(ExitCode::from),
        Command::Dump(args) => args.run().map(ExitCode::from),
        Command::Check(args) => args.run().map(ExitCode::from),
        Command::Diff(args) => args.run().map(ExitCode::from),
        Command::Flame(args) => args.run().map(ExitCode::from),
        Command::Html(args) => args.run().map(ExitCode::from),
        Command::Timeline(args) => args.run().map(ExitCode::from),
        Command::Export(args) => args.run().map(ExitCode::from),
        Command::Completions(args) => tools::manual::completions(args.shell),
        Command::Man(args) => tools::manual::page(args.command.as_deref()),
        Command::Doctor(args) => tools::doctor::run(&args),
        Command::Lint(args) => tools::image::lint(args.quiet),
    };
    match result {
        Ok(code) => code,
        Err(error) => match exit::status(&error) {
            Some(status) => {
                eprintln!("cowscope: {error:#}");
                status.into()
            }
            None => Exit::Ok.into(),
        },
    }
}
