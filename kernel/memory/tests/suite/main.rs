//! `memory` on the adversarial machine of `model`: random programs against an oracle of plain byte
//! maps, the omission of each barrier and each TLBI in turn, and a test per known trap.

mod omissions;
mod oracle;
mod program;
mod random;
mod sim;
mod traps;
mod world;
