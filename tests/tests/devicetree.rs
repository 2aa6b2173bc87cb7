//! The device trees of all Raspberry Pis that Debian's kernel knows, read by the kernel's own code:
//! what each board is said to have is what it has.

use std::fs;
use std::path::PathBuf;

use boards::{Board, Conduit, InterruptController, Led, MAX_CPUS, Serial, Soc, StartMethod, guess};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use tools::progress::Progress;
use tools::setup::firmware;

/// Where the kernel is, where the firmware puts the tree, and how large the two are.
const IMAGE: std::ops::Range<u64> = 0x20_0000..0xa0_0000;
const TREE_AT: u64 = 0x1b00_0000;

const MIDR_A53: u64 = 0x410f_d034;
const MIDR_A72: u64 = 0x410f_d083;
const MIDR_A76: u64 = 0x414f_d0b1;

fn folder() -> PathBuf {
    match firmware::folder(&Progress::new(false)) {
        Ok(folder) => folder,
        Err(error) => panic!("no device trees: {error:#}"),
    }
}

fn tree(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn midr(soc: Soc) -> u64 {
    match soc {
        Soc::Bcm2711 => MIDR_A72,
        Soc::Bcm2712 => MIDR_A76,
        _ => MIDR_A53,
    }
}

/// Reads a tree as the kernel does at boot. The machine lives as long as the kernel, and so its
/// tree does.
fn read(bytes: Vec<u8>, soc: Soc) -> Board {
    let bytes: &'static [u8] = bytes.leak();
    let (guessed, serial) = guess(IMAGE.start, midr(soc));
    assert_eq!(guessed, soc, "by its core");
    let mut board = Board::new(guessed, serial);
    let at = TREE_AT..TREE_AT + bytes.len() as u64;
    board.read_tree(bytes, at.clone()).expect("a valid tree");
    board.finish(&IMAGE, 0).expect("nothing overlaps");
    assert_eq!(
        board.wire, serial,
        "the port that panics use before the tree is read"
    );
    assert!(!board.free.contains(&(at.start & !4095..at.start + 1)));
    board
}

/// The tree as the firmware leaves it: with the memory of this board, in these ranges of cells, a
/// command line and a ramdisk.
fn filled(name: &str, reg: &[u32]) -> Vec<u8> {
    let bytes = tree(name);
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&bytes).expect("a valid tree"));
    let memory = tree.find_node_mut("/memory@0").expect("memory");
    memory.remove_property("reg");
    memory.add_property(DeviceTreeProperty::new("reg", reg).unwrap());
    if tree.find_node("/chosen").is_none() {
        let chosen = DeviceTreeNode::new("chosen").unwrap();
        tree.root.add_child(chosen);
    }
    let chosen = tree.find_node_mut("/chosen").unwrap();
    for (name, value) in [
        ("linux,initrd-start", 0x0800_0000u32),
        ("linux,initrd-end", 0x0812_3456),
    ] {
        chosen.add_property(DeviceTreeProperty::new(name, value).unwrap());
    }
    chosen.add_property(DeviceTreeProperty::new("bootargs", "trace=mmu -- a b").unwrap());
    tree.to_dtb()
}

/// All the names that Debian has, and the chip of each.
fn all() -> Vec<(String, Soc)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let soc = match name.get(..7) {
            Some("bcm2837") => Soc::Bcm2837,
            Some("bcm2711") => Soc::Bcm2711,
            Some("bcm2712") => Soc::Bcm2712,
            _ => continue,
        };
        found.push((name, soc));
    }
    found.sort_by(|one, two| one.0.cmp(&two.0));
    found
}

#[test]
fn every_raspberry_pi() {
    let all = all();
    for wanted in [
        "bcm2711-rpi-4-b.dtb",
        "bcm2711-rpi-400.dtb",
        "bcm2711-rpi-cm4-io.dtb",
        "bcm2712-rpi-5-b.dtb",
        "bcm2837-rpi-3-a-plus.dtb",
        "bcm2837-rpi-3-b-plus.dtb",
        "bcm2837-rpi-3-b.dtb",
        "bcm2837-rpi-cm3-io3.dtb",
        "bcm2837-rpi-zero-2-w.dtb",
    ] {
        assert!(
            all.iter().any(|(name, _)| name == wanted),
            "no {wanted}: {all:?}"
        );
    }
    for (name, soc) in all {
        let board = read(tree(&name), soc);
        assert_eq!(board.soc, soc, "{name}");
        assert!(
            board.model.starts_with("Raspberry Pi"),
            "{name}: {}",
            board.model
        );
        assert_eq!(board.cpus, 4, "{name}");
        match soc {
            Soc::Bcm2837 => pi3(&board),
            Soc::Bcm2711 => pi4(&board),
            _ => pi5(&board),
        }
    }
}

fn spin_table(board: &Board) {
    for (index, core) in board.cores().iter().enumerate() {
        assert_eq!(core.affinity, index as u64);
        assert_eq!(core.start, StartMethod::SpinTable(0xd8 + 8 * index as u64));
    }
    assert_eq!(board.psci, None);
    assert!(
        !board.free.contains(&(0..8)),
        "the spin table is the firmware's"
    );
}

fn pi3(board: &Board) {
    assert_eq!(board.name, "raspi3b");
    assert_eq!(board.wire, Serial::Pl011(0x3f20_1000));
    assert_eq!(
        board.wire_interrupt, None,
        "it has no number of the local controller"
    );
    // A compute module's is for its carrier board to enable.
    let console = (!board.model.contains("Compute")).then_some(Serial::Mini(0x3f21_5040));
    assert_eq!(board.console, console);
    assert_eq!(
        board.interrupts,
        Some(InterruptController::Bcm2836(0x4000_0000))
    );
    assert_eq!(board.timer_interrupt, Some(3), "CNTVIRQ");
    assert_eq!(board.watchdog, Some(0x3f10_0000));
    assert_eq!(board.mailbox, Some(0x3f00_b880));
    assert_eq!(board.gpio, Some(0x3f20_0000));
    spin_table(board);
}

fn pi4(board: &Board) {
    assert_eq!(board.name, "raspi4b");
    assert_eq!(board.wire, Serial::Pl011(0xfe20_1000));
    assert_eq!(board.wire_interrupt, Some(32 + 121));
    assert_eq!(board.console, Some(Serial::Mini(0xfe21_5040)));
    let gic = InterruptController::GicV2 {
        distributor: 0xff84_1000,
        cpu: 0xff84_2000,
    };
    assert_eq!(
        board.interrupts,
        Some(gic),
        "not the local controller beside it"
    );
    assert_eq!(board.timer_interrupt, Some(27));
    assert_eq!(board.watchdog, Some(0xfe10_0000));
    assert_eq!(board.mailbox, Some(0xfe00_b880));
    assert_eq!(board.gpio, Some(0xfe20_0000));
    spin_table(board);
}

fn pi5(board: &Board) {
    assert_eq!(board.name, "raspi5b");
    assert_eq!(board.wire, Serial::Pl011(0x10_7d00_1000));
    assert_eq!(board.wire_interrupt, Some(32 + 121));
    assert_eq!(board.console, None);
    let gic = InterruptController::GicV2 {
        distributor: 0x10_7fff_9000,
        cpu: 0x10_7fff_a000,
    };
    assert_eq!(board.interrupts, Some(gic));
    assert_eq!(board.timer_interrupt, Some(27));
    assert_eq!(board.psci, Some(Conduit::Smc));
    for (index, core) in board.cores().iter().enumerate() {
        assert_eq!(core.affinity, 0x100 * index as u64, "in Aff1");
        assert_eq!(core.start, StartMethod::Psci(Conduit::Smc));
    }
    // TF-A, which is not even to be mapped.
    assert!(!board.ram.contains(&(0..4096)));
    assert!(!board.is_ram(0x7_fff8) && board.is_ram(0x8_0000));
}

#[test]
fn activity_leds() {
    let led = |name: &str, soc| read(tree(name), soc).led;
    let of = |pin, active_low| Some(Led { pin, active_low });
    // Of a Pi 3 B it hangs on the firmware's expander.
    assert_eq!(led("bcm2837-rpi-3-b.dtb", Soc::Bcm2837), of(130, false));
    assert_eq!(led("bcm2837-rpi-3-b-plus.dtb", Soc::Bcm2837), of(29, false));
    assert_eq!(led("bcm2837-rpi-zero-2-w.dtb", Soc::Bcm2837), of(29, true));
    assert_eq!(led("bcm2711-rpi-4-b.dtb", Soc::Bcm2711), of(42, false));
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The ranges of RAM, in MiB.
fn ram(board: &Board) -> Vec<(u64, u64)> {
    let mebibytes = |at: u64| at / MIB;
    board
        .ram
        .iter()
        .map(|range| (mebibytes(range.start), mebibytes(range.end)))
        .collect()
}

#[test]
fn a_zero_2_w_has_512_mebibytes() {
    // Of which the GPU has 64.
    let board = read(
        filled("bcm2837-rpi-zero-2-w.dtb", &[0, 448 << 20]),
        Soc::Bcm2837,
    );
    assert_eq!(ram(&board), [(0, 448)]);
    assert_eq!(board.initrd, 0x0800_0000..0x0812_3456);
    assert_eq!(board.bootargs, "trace=mmu -- a b");
    assert!(board.has_argument("trace=mmu") && !board.has_argument("a"));
    for kept in [
        0..4096,
        IMAGE,
        0x0800_0000..0x0812_4000,
        TREE_AT..TREE_AT + 4096,
    ] {
        for page in (kept.start..kept.end).step_by(4096) {
            let page = page..page + 4096;
            assert!(!board.free.contains(&page), "{page:x?} would be given away");
            assert!(board.ram.contains(&page));
        }
    }
    assert!(board.free.bytes() > 430 * MIB);
}

#[test]
fn a_pi_4_has_8_gibibytes_in_pieces() {
    // A cell of 32 bits holds no size of 4 GiB: the firmware cuts them up, around the GPU's memory
    // and the devices.
    let reg = [
        [0, 0, 0x3b40_0000],
        [0, 0x4000_0000, 0xbc00_0000],
        [1, 0, 0x8000_0000],
        [1, 0x8000_0000, 0x8000_0000],
    ];
    let board = read(
        filled("bcm2711-rpi-4-b.dtb", reg.as_flattened()),
        Soc::Bcm2711,
    );
    assert_eq!(ram(&board), [(0, 948), (1024, 4032), (4096, 8192)]);
    assert_eq!(
        board.ram.bytes(),
        8 * GIB - (1024 - 948) * MIB - (4096 - 4032) * MIB
    );
    assert!(board.is_ram(8 * GIB - 8) && !board.is_ram(8 * GIB));
    assert!(!board.is_ram(0xfe20_1000), "devices");
}

#[test]
fn a_pi_5_has_8_gibibytes_and_firmware_in_them() {
    let reg = [[0, 0, 0, 0x3fc0_0000], [0, 0x4000_0000, 1, 0xc000_0000]];
    let board = read(
        filled("bcm2712-rpi-5-b.dtb", reg.as_flattened()),
        Soc::Bcm2712,
    );
    assert_eq!(ram(&board), [(0, 1020), (1024, 8192)]);
    assert!(!board.ram.contains(&(0x7_f000..0x8_0000)));
    // Lies above all RAM, and in reach of 40 bits.
    let Serial::Pl011(uart) = board.wire else {
        panic!("{:?}", board.wire)
    };
    assert!(uart > 8 * GIB && uart < 1 << 40);
}

#[test]
fn reserved_parts_are_left_alone() {
    let name = "bcm2711-rpi-4-b.dtb";
    let bytes = filled(name, &[0, 0, 0x3b40_0000]);
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&bytes).unwrap());
    let reserved = tree.find_node_mut("/reserved-memory").unwrap();
    for (name, start, no_map) in [
        ("a@1000000", 0x100_0000u32, false),
        ("b@2000000", 0x200_0000, true),
    ] {
        let mut node = DeviceTreeNode::new(name).unwrap();
        let reg: &[u32] = &[0, start, 0x1234];
        node.add_property(DeviceTreeProperty::new("reg", reg).unwrap());
        if no_map {
            let nothing: &[u8] = &[];
            node.add_property(DeviceTreeProperty::new("no-map", nothing).unwrap());
        }
        reserved.add_child(node);
    }
    let board = read(tree.to_dtb(), Soc::Bcm2711);
    for page in [0x100_0000, 0x100_1000, 0x200_0000, 0x200_1000] {
        assert!(!board.free.contains(&(page..page + 4096)), "{page:x}");
    }
    assert!(board.free.contains(&(0x100_2000..0x200_0000)));
    assert!(board.ram.contains(&(0x100_0000..0x100_2000)));
    assert!(!board.is_ram(0x200_0000) && board.is_ram(0x200_2000));
}

#[test]
fn a_ramdisk_in_the_kernels_way_is_an_error() {
    let bytes = tree("bcm2837-rpi-3-b.dtb");
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&bytes).unwrap());
    let chosen = tree.find_node_mut("/chosen").unwrap();
    for (name, value) in [
        ("linux,initrd-start", 0x90_0000u32),
        ("linux,initrd-end", 0xb0_0000),
    ] {
        chosen.add_property(DeviceTreeProperty::new(name, value).unwrap());
    }
    let mut board = Board::new(Soc::Bcm2837, Serial::Pl011(0x3f20_1000));
    board
        .read_tree(tree.to_dtb().leak(), TREE_AT..TREE_AT + 1)
        .unwrap();
    assert!(
        board
            .finish(&IMAGE, 0)
            .unwrap_err()
            .contains("initial file system")
    );
}

#[test]
fn the_mini_uart_where_there_is_nothing_better() {
    let bytes = tree("bcm2837-rpi-3-b.dtb");
    let mut tree = DeviceTree::from_fdt(&Fdt::new(&bytes).unwrap());
    let uart = tree.find_node_mut("/soc/serial@7e201000").unwrap();
    uart.remove_property("status");
    uart.add_property(DeviceTreeProperty::new("status", "disabled").unwrap());
    let mut board = Board::new(Soc::Bcm2837, Serial::Pl011(0x3f20_1000));
    board
        .read_tree(tree.to_dtb().leak(), TREE_AT..TREE_AT + 1)
        .unwrap();
    board.finish(&IMAGE, 0).unwrap();
    assert_eq!(board.wire, Serial::Mini(0x3f21_5040));
    assert_eq!(board.console, None);
}

#[test]
fn damaged_trees_are_no_panic() {
    // Bytes all over the smallest, in turn: all that may come of it is a wrong description or an
    // error.
    let whole = tree("bcm2712-rpi-5-b.dtb");
    let mut random = fastrand::Rng::with_seed(7);
    for at in (0..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << random.u8(..8);
        attempt(bytes);
    }
    for len in (0..whole.len()).step_by(97) {
        attempt(whole[..len].to_vec());
    }
}

/// Reads a tree that may be anything.
fn attempt(bytes: Vec<u8>) {
    let bytes: &'static mut [u8] = bytes.leak();
    let mut board = Board::new(Soc::Bcm2712, Serial::Pl011(0x10_7d00_1000));
    if board.read_tree(bytes, TREE_AT..TREE_AT + 1).is_ok() {
        // An initrd that a damaged tree places in the image is refused.
        let _ = board.finish(&IMAGE, 0);
        assert!(board.cores().len() <= MAX_CPUS);
    }
}
