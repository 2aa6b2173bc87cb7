//! Reading the device tree.

use super::{Board, Conduit, Core, InterruptController, Led, Serial, Soc, StartMethod, page_cover};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::{NodeStandard, Status};
use dtoolkit::{FromPropertyValue, Node, Property};

/// Deepest nesting of buses that devices are looked for in.
const DEPTH: usize = 6;

type Tree = FdtNode<'static>;

/// Fills in the board from a tree. Anything missing or malformed inside a valid tree is left out.
pub fn read(board: &mut Board, bytes: &'static [u8]) -> Result<(), &'static str> {
    let tree = Fdt::new(bytes).map_err(|_| "the device tree is damaged")?;
    let root = tree.root();
    identify(board, root);
    memory(board, tree);
    chosen(board, tree);
    let mut devices = Devices {
        board,
        stdout: stdout(tree),
        serials: [const { None }; 8],
        found: 0,
    };
    devices.walk(&mut Path::new(root));
    devices.choose_serials();
    board.timer_interrupt = timer_interrupt(board, root);
    board.led = led(root);
    cpus(board, tree);
    Ok(())
}

fn value<T: FromPropertyValue<'static>>(node: Tree, name: &str) -> Option<T> {
    node.property(name)?.value_as().ok()
}

/// A number of one or two cells, by the property's size.
fn number(node: Tree, name: &str) -> Option<u64> {
    value::<u64>(node, name).or_else(|| value::<u32>(node, name).map(u64::from))
}

fn enabled(node: Tree) -> bool {
    node.status().is_ok_and(|status| status == Status::Okay)
}

/// A cell of a property.
fn cell(property: &[u8], index: usize) -> Option<u32> {
    let (cells, _) = property.as_chunks::<4>();
    cells.get(index).copied().map(u32::from_be_bytes)
}

/// The virtual timer's interrupt: the third of the timer's (arm,arch_timer.yaml).
fn timer_interrupt(board: &Board, root: Tree) -> Option<u32> {
    const VIRTUAL: usize = 2;
    const PRIVATE: u32 = 1;
    let timer = find(root, DEPTH, &mut |node| {
        is(node, "arm,armv8-timer") || is(node, "arm,armv7-timer")
    })?;
    let interrupts: &[u8] = value(timer, "interrupts")?;
    if let Some(InterruptController::Bcm2836(_)) = board.interrupts {
        // Number and trigger.
        return cell(interrupts, 2 * VIRTUAL);
    }
    let at = 3 * VIRTUAL;
    let number = cell(interrupts, at + 1)?;
    (cell(interrupts, at)? == PRIVATE && number < 16).then_some(16 + number)
}

/// The activity LED: its pin of the chip, or of the firmware's expander, whose pins the firmware
/// counts from 128 on.
fn led(root: Tree) -> Option<Led> {
    const FIRMWARE_PINS: u32 = 128;
    const ACTIVE_LOW: u32 = 1;
    let leds = find(root, DEPTH, &mut |node| is(node, "gpio-leds"))?;
    let led = leds.children().find(|&node| {
        value::<&str>(node, "label").is_some_and(|label| label.eq_ignore_ascii_case("act"))
            || matches!(node.name_without_address(), "led-act" | "act" | "act_led")
    })?;
    let gpios: &[u8] = value(led, "gpios")?;
    let (phandle, pin, flags) = (cell(gpios, 0)?, cell(gpios, 1)?, cell(gpios, 2)?);
    let chip = find(root, DEPTH, &mut |node| {
        value::<u32>(node, "phandle") == Some(phandle)
    })?;
    let base = if is(chip, "raspberrypi,firmware-gpio") {
        FIRMWARE_PINS
    } else if is(chip, "brcm,bcm2835-gpio") || is(chip, "brcm,bcm2711-gpio") {
        0
    } else {
        return None;
    };
    (pin < FIRMWARE_PINS).then_some(Led {
        pin: base + pin,
        active_low: flags & ACTIVE_LOW != 0,
    })
}

fn is(node: Tree, name: &str) -> bool {
    node.compatible()
        .is_some_and(|mut all| all.any(|other| other == name))
}

/// The first node, at most so deep, of which `test` is true.
fn find(node: Tree, depth: usize, test: &mut dyn FnMut(Tree) -> bool) -> Option<Tree> {
    if test(node) {
        return Some(node);
    }
    let below = depth.checked_sub(1)?;
    node.children().find_map(|child| find(child, below, test))
}

/// The GIC's number of the first interrupt in a property of three cells each (arm,gic.yaml): kind,
/// number, trigger. Of other controllers, and other kinds than a shared one, none.
fn shared_interrupt(property: &[u8]) -> Option<u32> {
    const SHARED: u32 = 0;
    let (kind, rest) = property.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<4>()?;
    let whole = rest.len() >= 4 && property.len().is_multiple_of(12);
    let number = u32::from_be_bytes(*number);
    (whole && u32::from_be_bytes(*kind) == SHARED && number < 988).then_some(32 + number)
}

fn identify(board: &mut Board, root: Tree) {
    board.model = root.model().ok().flatten().unwrap_or("");
    let soc = |compatible: &str| match compatible {
        "linux,dummy-virt" => Some((Soc::Virt, "virt")),
        "brcm,bcm2837" => Some((Soc::Bcm2837, "raspi3b")),
        "brcm,bcm2711" => Some((Soc::Bcm2711, "raspi4b")),
        "brcm,bcm2712" => Some((Soc::Bcm2712, "raspi5b")),
        _ => None,
    };
    (board.soc, board.name) = root
        .compatible()
        .and_then(|mut all| all.find_map(soc))
        .unwrap_or((Soc::Other, "unknown"));
}

fn memory(board: &mut Board, tree: Fdt<'static>) {
    for node in tree.root().children() {
        if value::<&str>(node, "device_type") == Some("memory") && enabled(node) {
            for_each_reg(node, |start, size| {
                board.ram.add(start..start.saturating_add(size))
            });
        }
    }
    board.free = board.ram.clone();
    for reserved in tree.memory_reservations() {
        let end = reserved.address().saturating_add(reserved.size());
        board.free.remove(&page_cover(&(reserved.address()..end)));
    }
    let Some(nodes) = tree.find_node("/reserved-memory") else {
        return;
    };
    for node in nodes.children().filter(|&node| enabled(node)) {
        // Without `reg` the kernel may place it where it likes: nobody here asks for one.
        for_each_reg(node, |start, size| {
            let range = page_cover(&(start..start.saturating_add(size)));
            board.free.remove(&range);
            if node.property("no-map").is_some() {
                board.ram.remove(&range);
            }
        });
    }
}

fn for_each_reg(node: Tree, mut f: impl FnMut(u64, u64)) {
    let Ok(Some(all)) = node.reg() else { return };
    for reg in all {
        if let (Ok(start), Ok(size)) = (reg.address::<u64>(), reg.size::<u64>()) {
            f(start, size);
        }
    }
}

fn chosen(board: &mut Board, tree: Fdt<'static>) {
    let Some(chosen) = tree.find_node("/chosen") else {
        return;
    };
    board.bootargs = value(chosen, "bootargs").unwrap_or("");
    board.rng_seed = value(chosen, "rng-seed").unwrap_or(&[]);
    if let (Some(start), Some(end)) = (
        number(chosen, "linux,initrd-start"),
        number(chosen, "linux,initrd-end"),
    ) {
        board.initrd = start..end;
    }
}

fn cpus(board: &mut Board, tree: Fdt<'static>) {
    let Some(cpus) = tree.find_node("/cpus") else {
        return;
    };
    for node in cpus.children() {
        if value::<&str>(node, "device_type") != Some("cpu") {
            continue;
        }
        let Some(affinity) = node
            .reg()
            .ok()
            .flatten()
            .and_then(|mut all| all.next())
            .and_then(|reg| reg.address::<u64>().ok())
        else {
            continue;
        };
        let start = match (value::<&str>(node, "enable-method"), board.psci, board.soc) {
            (Some("psci"), Some(conduit), _) => StartMethod::Psci(conduit),
            (Some("spin-table"), ..) => {
                number(node, "cpu-release-addr").map_or(StartMethod::None, StartMethod::SpinTable)
            }
            // Trees for 32-bit kernels name a method of their own; the firmware's stub is the same.
            (_, _, Soc::Bcm2837 | Soc::Bcm2711) if affinity < 4 => {
                StartMethod::SpinTable(0xd8 + 8 * affinity)
            }
            _ => StartMethod::None,
        };
        board.add_core(Core { affinity, start });
    }
}

/// The node the boot loader talks to the user by: a path, or an alias, with options after a colon.
fn stdout(tree: Fdt<'static>) -> Option<Tree> {
    let path: &str = value(tree.find_node("/chosen")?, "stdout-path")?;
    let path = path.split(':').next()?;
    let path = if path.starts_with('/') {
        path
    } else {
        value(tree.find_node("/aliases")?, path)?
    };
    tree.find_node(path)
}

/// A node and the buses above it.
struct Path {
    nodes: [Tree; DEPTH],
    len: usize,
}

impl Path {
    fn new(root: Tree) -> Self {
        Self {
            nodes: [root; DEPTH],
            len: 1,
        }
    }

    fn node(&self) -> Tree {
        self.nodes[self.len - 1]
    }

    /// The `index`th register range of the node, as a CPU sees it: address and size.
    fn reg(&self, index: usize) -> Option<(u64, u64)> {
        let reg = self.node().reg().ok()??.nth(index)?;
        let mut address = reg.address::<u64>().ok()?;
        // From the bus the node is on, up to the root.
        for bus in self.nodes[1..self.len - 1].iter().rev() {
            let ranges = bus.property("ranges")?;
            if ranges.value().is_empty() {
                continue;
            }
            address = (*bus).ranges().ok()??.find_map(|range| {
                let child = range.child_bus_address::<u64>().ok()?;
                let parent = range.parent_bus_address::<u64>().ok()?;
                let len = range.length::<u64>().ok()?;
                let offset = address.checked_sub(child)?;
                (offset < len).then(|| parent.checked_add(offset)).flatten()
            })?;
        }
        Some((address, reg.size::<u64>().unwrap_or(0)))
    }
}

/// Looks for the devices the kernel drives.
struct Devices<'a> {
    board: &'a mut Board,
    stdout: Option<Tree>,
    serials: [Option<Found>; 8],
    found: usize,
}

/// A serial port, whether it is the standard output, and its interrupt.
type Found = (Serial, bool, Option<u32>);

impl Devices<'_> {
    fn walk(&mut self, path: &mut Path) {
        self.visit(path);
        if path.len == DEPTH {
            return;
        }
        for child in path.node().children() {
            path.nodes[path.len] = child;
            path.len += 1;
            self.walk(path);
            path.len -= 1;
        }
    }

    fn visit(&mut self, path: &Path) {
        let node = path.node();
        let Some(compatible) = node.compatible() else {
            return;
        };
        for name in compatible {
            let done = match name {
                "arm,pl011" => self.serial(path, Serial::Pl011),
                "brcm,bcm2835-aux-uart" => self.serial(path, Serial::Mini),
                "arm,cortex-a15-gic" | "arm,gic-400" => (|| {
                    self.board.interrupts = Some(InterruptController::GicV2 {
                        distributor: path.reg(0)?.0,
                        cpu: path.reg(1)?.0,
                    });
                    Some(())
                })(),
                "arm,gic-v3" => (|| {
                    let (start, size) = path.reg(1)?;
                    self.board.interrupts = Some(InterruptController::GicV3 {
                        distributor: path.reg(0)?.0,
                        redistributors: start..start.checked_add(size)?,
                    });
                    Some(())
                })(),
                // The later chips have it as well, out of use beside their GIC.
                "brcm,bcm2836-l1-intc" => path.reg(0).map(|(at, _)| {
                    let found = InterruptController::Bcm2836(at);
                    self.board.interrupts.get_or_insert(found);
                }),
                "brcm,bcm2835-mbox" => path.reg(0).map(|(at, _)| self.board.mailbox = Some(at)),
                "brcm,bcm2835-gpio" | "brcm,bcm2711-gpio" => {
                    path.reg(0).map(|(at, _)| self.board.gpio = Some(at))
                }
                "brcm,bcm2835-pm" | "brcm,bcm2711-pm" | "brcm,bcm2712-pm" => {
                    path.reg(0).map(|(at, _)| {
                        self.board.watchdog = Some(at);
                    })
                }
                "arm,psci-1.0" | "arm,psci-0.2" => {
                    self.board.psci = match value(node, "method") {
                        Some("hvc") => Some(Conduit::Hvc),
                        Some("smc") => Some(Conduit::Smc),
                        _ => None,
                    };
                    Some(())
                }
                _ => None,
            };
            if done.is_some() {
                return;
            }
        }
    }

    fn serial(&mut self, path: &Path, kind: fn(u64) -> Serial) -> Option<()> {
        let node = path.node();
        if !enabled(node) || self.found == self.serials.len() {
            return None;
        }
        let serial = kind(path.reg(0)?.0);
        let is_stdout = self.stdout.is_some_and(|stdout| {
            // A node is where it is in the tree: same name, same registers.
            let reg = |node: Tree| value::<&[u8]>(node, "reg");
            stdout.name() == node.name() && reg(stdout) == reg(node)
        });
        let interrupt = value::<&[u8]>(node, "interrupts").and_then(shared_interrupt);
        self.serials[self.found] = Some((serial, is_stdout, interrupt));
        self.found += 1;
        Some(())
    }

    /// The wire takes the PL011 that is the standard output, or the first: the mini UART of a
    /// Raspberry Pi is too slow for it, and good only where there is no other. Another one is the
    /// second console.
    fn choose_serials(&mut self) {
        let all = || self.serials.iter().flatten();
        let pl011 = |&&(serial, ..): &&Found| matches!(serial, Serial::Pl011(_));
        if let Some(&(wire, _, interrupt)) = all()
            .filter(pl011)
            .find(|(_, is_stdout, _)| *is_stdout)
            .or_else(|| all().find(pl011))
            .or_else(|| all().next())
        {
            self.board.wire = wire;
            self.board.wire_interrupt = interrupt;
        }
        let wire = self.board.wire;
        self.board.console = all()
            .map(|&(serial, ..)| serial)
            .find(|&serial| serial != wire && matches!(serial, Serial::Mini(_)))
            .or_else(|| {
                all()
                    .map(|&(serial, ..)| serial)
                    .find(|&serial| serial != wire)
            });
    }
}
