//! `memory` on the adversarial machine of `model`: random programs against an oracle of plain byte
//! maps, with each allocation refused in turn, with each barrier, TLBI, count and protection left
//! out in turn, and a test per known trap.

mod free;
mod mutation;
mod oracle;
mod program;
mod random;
mod sim;
mod source;
mod starved;
mod traps;
mod world;
