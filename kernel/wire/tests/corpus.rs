//! The fuzz target without a fuzzer: the corpus, and changes of it.

mod common;
#[path = "../fuzz/entry.rs"]
mod entry;

use common::Random;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/decode");

fn corpus() -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = std::fs::read_dir(CORPUS)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

#[test]
fn the_corpus() {
    let corpus = corpus();
    assert!(corpus.len() >= 10);
    for input in &corpus {
        entry::run(input);
    }
}

/// Flips, deletes, inserts, repeats and joins pieces, as a fuzzer does but blindly.
#[test]
fn three_hundred_thousand_changes_of_it() {
    let corpus = corpus();
    let mut random = Random(2024);
    for _ in 0..300_000 {
        let mut input = corpus[random.range(0, corpus.len() as u64) as usize].clone();
        for _ in 0..random.range(1, 6) {
            let len = input.len() as u64;
            let place = random.range(0, len + 1) as usize;
            match random.range(0, 6) {
                0 if len > 0 => input[place % len as usize] ^= 1 << random.range(0, 8),
                1 if len > 0 => drop(input.remove(place % len as usize)),
                2 => input.insert(place, random.bits() as u8),
                3 => input.insert(place, [0, 1, 0x7f, 0x80, 0xff][random.range(0, 5) as usize]),
                4 => input.truncate(place),
                _ => {
                    let other = &corpus[random.range(0, corpus.len() as u64) as usize];
                    let from = random.range(0, other.len() as u64 + 1) as usize;
                    input.truncate(place);
                    input.extend_from_slice(&other[from..]);
                    input.truncate(4096);
                }
            }
        }
        entry::run(&input);
    }
}

#[test]
fn noise() {
    let mut random = Random(2025);
    for _ in 0..20_000 {
        let input: Vec<u8> = (0..random.range(0, 600))
            .map(|_| random.bits() as u8)
            .collect();
        entry::run(&input);
    }
}
