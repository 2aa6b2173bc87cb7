//! Two runs that count instructions, with the same seeds, give the same bytes.

use tests::{Board, Boot};

fn bytes(board: Board, seed: u64) -> Vec<u8> {
    let run = Boot::on(board)
        .lossless()
        .deterministic(seed)
        .run(&["story", "child"]);
    run.expect_status(0).expect_sound();
    run.bytes.clone()
}

#[track_caller]
fn equal_runs(board: Board) {
    let (one, two) = (bytes(board, 1), bytes(board, 1));
    let differ = one.iter().zip(&two).position(|(a, b)| a != b);
    assert_eq!(differ, None, "{board}: the first byte that differs");
    assert_eq!(one.len(), two.len(), "{board}");
}

#[test]
fn virt() {
    equal_runs(Board::Virt);
    // That the comparison sees anything: another seed is another boot.
    assert_ne!(bytes(Board::Virt, 1), bytes(Board::Virt, 2));
}

#[test]
fn raspi3b() {
    equal_runs(Board::Raspi3b);
}

#[test]
fn raspi4b() {
    equal_runs(Board::Raspi4b);
}
