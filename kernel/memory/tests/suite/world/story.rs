//! Programs in words, for people: who does what, by names that stay.

use memory::{ForkMode, Prot};

use super::World;
use crate::program::{Back, Op, Program};

fn pages(page: usize, count: usize) -> String {
    match count {
        1 => format!("page {page}"),
        _ => format!("pages {page}..{}", page + count),
    }
}

fn rights(bits: u8) -> String {
    let prot = Prot::from_bits(bits);
    let letters = [(Prot::READ, 'r'), (Prot::WRITE, 'w'), (Prot::EXEC, 'x')];
    let letter = |(right, letter)| if prot.contains(right) { letter } else { '-' };
    letters.map(letter).iter().collect()
}

/// The fork modes, by the numbers in [`Op::Fork`].
pub(super) fn mode(number: usize) -> ForkMode {
    [
        ForkMode::Eager,
        ForkMode::Classic,
        ForkMode::SharedTables,
        ForkMode::SharedTables,
    ][number % 4]
}

impl World {
    /// What a step is about to do.
    fn tell(&self, op: Op) -> String {
        let who = |process: usize| match self.processes.len() {
            0 => "nobody".into(),
            count => format!("p{}", self.processes[process % count].name),
        };
        let on = |cpu: usize, process| format!("cpu{} {}:", cpu % self.running.len(), who(process));
        match op {
            Op::Read {
                cpu,
                process,
                page,
                offset,
            } => {
                format!("{} read page {page}[{offset}]", on(cpu, process))
            }
            Op::Write {
                cpu,
                process,
                page,
                offset,
                value,
            } => {
                format!(
                    "{} write page {page}[{offset}] = {value:#x}",
                    on(cpu, process)
                )
            }
            Op::Fetch { cpu, process, page } => format!("{} execute page {page}", on(cpu, process)),
            Op::KernelWrite {
                cpu,
                process,
                page,
                value,
            } => {
                format!(
                    "{} the kernel writes page {page}[0..2] = {value:#x}",
                    on(cpu, process)
                )
            }
            Op::KernelRead { cpu, process, page } => {
                format!("{} the kernel reads page {page}", on(cpu, process))
            }
            Op::FileWrite {
                cpu,
                file,
                page,
                value,
            } => {
                let cpu = cpu % self.running.len();
                format!("cpu{cpu}: file {file} page {page}[1] = {value:#x}")
            }
            Op::Map {
                cpu,
                process,
                page,
                count,
                prot,
                back,
            } => {
                let back = match back {
                    Back::Anonymous => "anonymous".into(),
                    Back::Shared => "anonymous shared".into(),
                    Back::File { file, from, shared } => {
                        let how = if shared { "shared" } else { "private" };
                        format!("file {file} from page {from} {how}")
                    }
                };
                let pages = pages(page, count);
                format!("{} mmap {pages} {} {back}", on(cpu, process), rights(prot))
            }
            Op::Stack { cpu, process, page } => {
                format!(
                    "{} a stack behind page {page}, and nothing else around it",
                    on(cpu, process)
                )
            }
            Op::Unmap {
                cpu,
                process,
                page,
                count,
            } => {
                format!("{} munmap {}", on(cpu, process), pages(page, count))
            }
            Op::Protect {
                cpu,
                process,
                page,
                count,
                prot,
            } => {
                let pages = pages(page, count);
                format!("{} mprotect {pages} {}", on(cpu, process), rights(prot))
            }
            Op::Discard {
                cpu,
                process,
                page,
                count,
            } => {
                format!(
                    "{} madvise DONTNEED {}",
                    on(cpu, process),
                    pages(page, count)
                )
            }
            Op::Populate {
                cpu,
                process,
                page,
                count,
                write,
            } => {
                let how = if write { "WRITE" } else { "READ" };
                let pages = pages(page, count);
                format!(
                    "{} madvise POPULATE_{how} {pages}, then access the first",
                    on(cpu, process)
                )
            }
            Op::Remap {
                cpu,
                process,
                page,
                count,
                new_count,
                to,
            } => {
                format!(
                    "{} mremap {} to {new_count} pages, {to:?}",
                    on(cpu, process),
                    pages(page, count)
                )
            }
            Op::Fork {
                cpu,
                process,
                page,
                mode: number,
            } => {
                let mode = mode(number);
                format!(
                    "{} fork {mode:?}, then read page {page}[0]",
                    on(cpu, process)
                )
            }
            Op::Exec { cpu, process } => format!("{} exec", on(cpu, process)),
            Op::Exit { cpu, process } => format!("{} exit", on(cpu, process)),
            Op::Everywhere {
                process,
                page,
                value,
            } => {
                format!(
                    "{}: read page {page}[0] on all CPUs, then write {value:#x} on all",
                    who(process)
                )
            }
            Op::Reclaim { cpu } => {
                let cpu = cpu % self.running.len();
                format!("cpu{cpu}: files give up what nobody maps")
            }
            Op::Starve { left } => format!("for the next step there are {left} frames"),
        }
    }
}

/// Runs a program, and tells what it does, line by line, until it fails.
pub fn story(program: &Program, mut world: World) -> String {
    let mut lines = Vec::new();
    for op in &program.ops {
        let mut line = world.tell(*op);
        let before = world.processes.len();
        let result = world.step(*op);
        if world.processes.len() > before {
            line += &format!(" -> p{}", world.processes[before].name);
        }
        lines.push(line);
        if let Err(error) = result {
            lines.push(format!("  {error}"));
            return lines.join("\n");
        }
    }
    lines.extend(
        world
            .finish()
            .err()
            .map(|error| format!("at the end: {error}")),
    );
    lines.join("\n")
}
