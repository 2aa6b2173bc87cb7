//! Cards for Raspberry Pis: each passes `fsck`, has the right files, is the same every time, and what
//! is on it boots on QEMU's Raspberry Pis as it lies there.

use std::fs;
use std::path::{Path, PathBuf};

use tests::card::{self, Card, Files};
use tests::{Board, Model, cowscope};

/// Makes a card for a board that runs `hello`.
#[track_caller]
fn make(model: Model, dir: &Path, name: &str) -> PathBuf {
    let image = dir.join(name);
    let mut command = cowscope();
    command.args(["image", "--board", model.name(), "-o"]);
    command.arg(&image);
    command.args(["--trace", "mmu", "--lossless", "--", "hello"]);
    let output = command.output().expect("cowscope runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", model.name());
    if model != Model::Pi5 {
        assert!(said.contains("LICENCE.raspi-firmware.txt"), "{said}");
    }
    image
}

/// What lies on each card beside kernel, root file system and configuration.
fn expected(model: Model) -> &'static [&'static str] {
    match model {
        Model::Pi3 => &[
            "LICENCE.raspi-firmware.txt",
            "bcm2837-rpi-3-a-plus.dtb",
            "bcm2837-rpi-3-b-plus.dtb",
            "bcm2837-rpi-3-b.dtb",
            "bcm2837-rpi-cm3-io3.dtb",
            "bootcode.bin",
            "fixup.dat",
            "start.elf",
        ],
        Model::Pi4 => &[
            "LICENCE.raspi-firmware.txt",
            "bcm2711-rpi-4-b.dtb",
            "bcm2711-rpi-400.dtb",
            "bcm2711-rpi-cm4-io.dtb",
            "fixup4.dat",
            "start4.elf",
        ],
        Model::Pi5 => &["bcm2712-rpi-5-b.dtb"],
        Model::Zero2w => &[
            "LICENCE.raspi-firmware.txt",
            "bcm2837-rpi-zero-2-w.dtb",
            "bootcode.bin",
            "fixup.dat",
            "start.elf",
        ],
    }
}

#[test]
fn cards_are_whole_and_boot() {
    let dir = tempfile::tempdir().unwrap();
    for model in Model::ALL {
        let image = make(model, dir.path(), model.name());
        let card = Card::open(&image);
        let said = card.check();
        assert!(said.contains("files"), "{said}");
        let mut names = [
            expected(model),
            &["LICENCE.device-trees.txt", "cmdline.txt", "config.txt"],
            &["initramfs.cpio", "kernel8.img"],
        ]
        .concat();
        names.sort_unstable();
        assert_eq!(card.list(), names, "{}", model.name());

        let folder = dir.path().join(format!("{}-files", model.name()));
        fs::create_dir(&folder).unwrap();
        let text = |name: &str| fs::read_to_string(card.extract(name, &folder)).unwrap();
        let config = text("config.txt");
        for name in [
            "kernel=kernel8.img\n",
            "initramfs initramfs.cpio 0x8000000\n",
        ] {
            assert!(config.contains(name), "{config}");
        }
        let cmdline = text("cmdline.txt");
        assert_eq!(
            cmdline.matches('\n').count(),
            1,
            "the firmware reads one line"
        );

        let (board, tree) = match model {
            Model::Pi3 => (Board::Raspi3b, "bcm2837-rpi-3-b.dtb"),
            Model::Pi4 => (Board::Raspi4b, "bcm2711-rpi-4-b.dtb"),
            // A Zero 2 W is a Pi 3 with less memory, and QEMU has no Pi 5.
            Model::Pi5 | Model::Zero2w => continue,
        };
        let again = make(model, dir.path(), "again");
        assert!(
            fs::read(&image).unwrap() == fs::read(&again).unwrap(),
            "{}: two images of the same are different",
            model.name()
        );
        fs::remove_file(again).unwrap();
        let run = card::boot(
            board,
            &Files {
                kernel: card.extract("kernel8.img", &folder),
                initramfs: card.extract("initramfs.cpio", &folder),
                tree: card.extract(tree, &folder),
                cmdline: cmdline.trim_end().to_owned(),
            },
        );
        run.expect_status(0).expect_sound();
        assert_eq!(run.stdout(), "hello, world\n");
        let about = run.state().about.as_ref().expect("a hello");
        assert_eq!(about.cpus, 4, "as the tree has them");
        assert!(about.board.contains(board.name()), "{}", about.board);
    }
}

#[test]
fn a_card_is_not_overwritten_by_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sd.img");
    fs::write(&file, "precious").unwrap();
    let refused = |words: &[&str], word: &str| {
        let mut command = cowscope();
        command.args(["image", "--board", "pi3"]).args(words);
        let output = command.arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{said}");
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    };
    refused(&["-o"], "--force");
    // A file is no card, whatever is said.
    refused(&["--yes", "--write"], "no block device");
    let mut command = cowscope();
    let output = command.args(["image", "--board", "pi3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "it has to go somewhere");
}
