//! `cowscope boot`: a kernel for a board that has the chain loader on its card, by the serial line
//! that then carries the trace.

mod client;
pub mod doctor;
mod tree;

use std::process::ExitCode;

use anyhow::{Context, Result};
use chain::FIRST_BAUD;

use crate::card::model::{INITRAMFS_AT, check_initramfs};
use crate::cli::LoadArgs;
use crate::exit::{unreadable, usage};
use crate::image;
use crate::interrupt;
use crate::machine::{Board, BootArgs};
use crate::payload::{Payload, boot_arguments};
use crate::progress::Progress;
use crate::record::{LogLevel, Output, Recording, Shower, Source};
use crate::report::args::SymbolArgs;
use crate::serial::Line;

pub use client::Client;

/// Where the kernel goes, as current firmware has it.
const KERNEL_AT: u64 = 0x20_0000;
/// Where its device tree goes: between the loader and the initramfs.
const TREE_AT: u64 = 0x07e0_0000;
/// The largest tree that has room there.
const TREE_MOST: usize = (INITRAMFS_AT - TREE_AT) as usize;

/// `cowscope boot`
pub fn run(args: &LoadArgs) -> Result<ExitCode> {
    interrupt::watch();
    let output = Output::choose(args.output.as_deref(), args.force)?;
    let progress = Progress::new(args.quiet);
    // The line first: it is what is missing most often, and building takes longest.
    let line = Line::open(&args.line, FIRST_BAUD)?;
    let baud = args.line.rate(args.baud);
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    let mut payload = Payload::build(&args.payload, folder.path(), &progress)?;
    let kernel = image::read(&payload.kernel)?;
    let mut bootargs = BootArgs::new();
    boot_arguments(&args.payload, args.payload.seed, &mut bootargs)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    bootargs.set("time", now.unwrap_or_default().as_secs())?;
    payload.guest.boot(&mut bootargs, Board::Virt)?;
    let archive = payload.guest.root.archive();
    check_initramfs(archive.len())?;
    let bootargs = bootargs.line(Board::Virt)?;

    let mut client = Client::new(line);
    progress.step("waiting for the loader: switch the board on");
    let here = client.meet()?;
    if here.rates && baud != FIRST_BAUD && !client.raise(baud)? {
        progress.warn(&format!(
            "{baud} baud do not work on this line: going on at {FIRST_BAUD}"
        ));
    }
    let tree = match &args.device_tree {
        Some(file) => image::read(file)?,
        None => client.tree(&here)?,
    };
    if tree.is_empty() {
        return Err(unreadable(
            "the firmware gave the loader no device tree: is the board's .dtb on the card? \
             (--device-tree FILE gives it one)",
        ));
    }
    let initrd = INITRAMFS_AT..INITRAMFS_AT + archive.len() as u64;
    let tree = tree::edit(&tree, &bootargs, initrd)?;
    if tree.len() > TREE_MOST {
        return Err(usage("the device tree is too large"));
    }
    let total = kernel.len() + tree.len() + archive.len();
    let mut sent = 0;
    for (at, bytes) in [
        (KERNEL_AT, &kernel),
        (TREE_AT, &tree),
        (INITRAMFS_AT, &archive),
    ] {
        client.write(at, bytes, |n| {
            sent += n;
            let percent = sent * 100 / total.max(1);
            progress.state(&format!("sending {} kB: {percent} %", total / 1000));
        })?;
    }
    let repeated = client.repeated;
    let (line, first) = client.go(KERNEL_AT, TREE_AT)?;
    progress.note(&match repeated {
        0 => format!("sent {} kB", total / 1000),
        n => format!("sent {} kB; {n} requests had to be repeated", total / 1000),
    });

    let elf = std::fs::read(&payload.built.kernel).unwrap_or_default();
    let log = match args.payload.checks {
        true => args.log.max(LogLevel::Info),
        false => args.log,
    };
    let symbols = SymbolArgs {
        elf: [payload.built.kernel]
            .into_iter()
            .chain(payload.guest.elves)
            .collect(),
        elf_dir: payload.root.into_iter().collect(),
    };
    let recording = Recording {
        name: args.line.to_string(),
        output: &output,
        stop_at_end: true,
        report: (!args.no_report).then_some(symbols),
        story: payload.guest.is_story,
        shower: Shower::new(&progress).with_logs(&elf, log),
        progress: &progress,
    };
    recording.follow(Source::from_line(line).after(first))
}
