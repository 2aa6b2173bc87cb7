//! The device tree that the kernel gets: the firmware's, with what `cowscope boot` decides.

use std::ops::Range;

use anyhow::{Result, anyhow, bail};
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

/// The tree with these boot arguments and this initial file system in `/chosen`. All else stays.
pub fn edit(tree: &[u8], bootargs: &str, initrd: Range<u64>) -> Result<Vec<u8>> {
    let Ok(fdt) = Fdt::new(tree) else {
        bail!("the board's device tree is damaged");
    };
    let mut tree = DeviceTree::from_fdt(&fdt);
    let why = |error| anyhow!("the board's device tree cannot be changed: {error}");
    if tree.find_node("/chosen").is_none() {
        tree.root
            .add_child(DeviceTreeNode::new("chosen").map_err(why)?);
    }
    let chosen = tree
        .find_node_mut("/chosen")
        .ok_or_else(|| anyhow!("the board's device tree has no /chosen"))?;
    let (start, end) = ("linux,initrd-start", "linux,initrd-end");
    for (name, property) in [
        ("bootargs", DeviceTreeProperty::new("bootargs", bootargs)),
        (start, DeviceTreeProperty::new(start, initrd.start)),
        (end, DeviceTreeProperty::new(end, initrd.end)),
    ] {
        chosen.remove_property(name);
        chosen.add_property(property.map_err(why)?);
    }
    Ok(tree.to_dtb())
}

#[cfg(test)]
mod tests {
    use super::*;
    use boards::{Board, Serial, Soc};

    /// Memory of 1 GiB, and the firmware's first page reserved.
    fn tree(with_chosen: bool) -> Vec<u8> {
        let property = |name, value: &[u32]| DeviceTreeProperty::new(name, value).unwrap();
        let mut tree = DeviceTree::new();
        tree.root.add_property(property("#address-cells", &[1]));
        tree.root.add_property(property("#size-cells", &[1]));
        let mut memory = DeviceTreeNode::new("memory@0").unwrap();
        memory.add_property(DeviceTreeProperty::new("device_type", "memory").unwrap());
        memory.add_property(property("reg", &[0, 0x4000_0000]));
        tree.root.add_child(memory);
        if with_chosen {
            let mut chosen = DeviceTreeNode::new("chosen").unwrap();
            chosen.add_property(DeviceTreeProperty::new("bootargs", "of the firmware").unwrap());
            chosen.add_property(DeviceTreeProperty::new("rng-seed", "random").unwrap());
            chosen.add_property(property("linux,initrd-start", &[1]));
            tree.root.add_child(chosen);
        }
        tree.to_dtb()
    }

    #[test]
    fn what_is_chosen() {
        for with_chosen in [false, true] {
            let edited = edit(&tree(with_chosen), "trace=mmu -- a", 0x800_0000..0x900_0000);
            let bytes = edited.unwrap().leak();
            let mut board = Board::new(Soc::Bcm2837, Serial::Pl011(0));
            board.read_tree(bytes, 0..4096).unwrap();
            assert_eq!(board.bootargs, "trace=mmu -- a");
            assert_eq!(board.initrd, 0x800_0000..0x900_0000);
            assert_eq!(board.ram.bytes(), 1 << 30);
            assert_eq!(board.rng_seed.is_empty(), !with_chosen);
        }
        assert!(edit(b"no tree", "", 0..0).is_err());
    }
}
