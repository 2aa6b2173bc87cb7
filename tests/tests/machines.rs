//! The same image on machines that differ in CPU, interrupt controller, exception level, number
//! of CPUs and RAM.

use tests::batch::{Case, ours};
use tests::{Board, Boot, Run, TraceLevel};
use tools::check::{Verdict, check};

/// Boots a short program that needs the timer and forks; what the hello must say.
#[track_caller]
fn runs(boot: Boot, cpus: u8, mebibytes: u64) -> Run {
    let run = boot.run(&["fp"]);
    run.expect_status(0).expect_whole();
    let about = run.state().about.as_ref().expect("a hello");
    assert_eq!(about.cpus, cpus);
    let ram = about.ram_bytes;
    let all = mebibytes << 20;
    // What is managed is all but the image, the ramdisk and what firmware keeps.
    assert!(
        ram <= all && ram >= all - all / 8 - (32 << 20),
        "{} of {mebibytes} MiB",
        ram >> 20
    );
    assert!(about.counter_hz > 1_000_000);
    assert!(about.same_definitions);
    let switches = run.trace.events();
    let switches = switches.filter(|e| matches!(e, wire::event::Event::Switch { .. }));
    assert!(switches.count() > 100);
    run
}

/// Implementer and part number of MIDR_EL1.
fn part(run: &Run) -> (u64, u64) {
    let midr = run.state().about.as_ref().expect("a hello").midr;
    (midr >> 24, midr >> 4 & 0xfff)
}

fn board(run: &Run) -> &str {
    &run.state().about.as_ref().expect("a hello").board
}

const ARM: u64 = 0x41;

#[test]
fn cpu_models() {
    for (model, number) in [
        ("cortex-a53", 0xd03),
        ("cortex-a72", 0xd08),
        ("cortex-a76", 0xd0b),
    ] {
        let run = runs(Boot::on(Board::Virt).cpus(4).cpu(model), 4, 1024);
        assert_eq!(part(&run), (ARM, number), "{model}");
        assert!(board(&run).contains("virt"), "{}", board(&run));
    }
    // Whatever this QEMU knows of the architecture.
    let run = runs(Boot::on(Board::Virt).cpus(2).cpu("max"), 2, 1024);
    assert_eq!(part(&run), (0, 0x51));
}

/// The programs that check themselves are content on every kind of core, with one, two and four of
/// them; and on the boards.
#[test]
fn programs_everywhere() {
    const PROGRAMS: &[&[&str]] = &[
        &["story"],
        &["isolation", "8", "60", "7"],
        &["mapping"],
        &["remap"],
        &["forkmodes"],
        &["vforks", "10"],
        &["execs", "10"],
        &["pipes"],
        &["syscalls"],
        &["threads"],
        &["stress", "4", "2", "7"],
    ];
    let place = |words: &&[&str]| {
        let path = format!("/bin/{}", words[0]);
        Case::new(path.leak(), words)
    };
    let cases: Vec<_> = PROGRAMS.iter().map(place).collect();
    let models = ["cortex-a53", "cortex-a72", "cortex-a76", "max"];
    let kinds = models
        .iter()
        .flat_map(|model| [1, 2, 4].map(|cpus| (model, cpus)));
    let virt = kinds.map(|(model, cpus)| Boot::on(Board::Virt).cpu(model).cpus(cpus));
    let boards = [Board::Raspi3b, Board::Raspi4b].map(Boot::on);
    for boot in virt.chain(boards) {
        let about = format!("{boot:?}");
        let (run, outcomes) = ours(boot.lossless(), &cases);
        assert_eq!(outcomes.len(), cases.len(), "{about}");
        for (case, outcome) in cases.iter().zip(outcomes) {
            assert_eq!(outcome.status, 0, "{case:?} on {about}: {outcome:?}");
        }
        run.expect_status(0).expect_sound();
    }
}

#[test]
fn interrupt_controllers_and_exception_levels() {
    for gic in [2, 3] {
        runs(Boot::on(Board::Virt).cpus(4).gic(gic), 4, 1024);
        runs(Boot::on(Board::Virt).cpus(4).gic(gic).el2(), 4, 1024);
    }
    runs(
        Boot::on(Board::Virt).cpus(4).cpu("max").gic(3).el2(),
        4,
        1024,
    );
}

#[test]
fn numbers_of_cpus_and_amounts_of_memory() {
    runs(Boot::on(Board::Virt).cpus(1).memory(128), 1, 128);
    runs(Boot::on(Board::Virt).cpus(8).memory(256), 8, 256);
    runs(Boot::on(Board::Virt).cpus(4).memory(4096), 4, 4096);
}

/// What QEMU can show of a Raspberry Pi 5: four Cortex-A76 of the same revision, entered at EL2,
/// started by PSCI through SMC, on a GICv2.
#[test]
fn the_cores_of_a_raspberry_pi_5() {
    let pi5 = || Boot::on(Board::Virt).cpus(4).cpu("cortex-a76").el2();
    let run = pi5().lossless().run(&["story"]);
    run.expect_status(0).expect_sound();
    let about = run.state().about.as_ref().expect("a hello");
    assert_eq!(about.midr, 0x414f_d0b1, "r4p1, as in BCM2712");
    assert_eq!(about.cpus, 4);
    let report = run.report();
    for step in report["story"].as_array().expect("steps") {
        assert_eq!(step["holds"], true, "{step}");
    }
    // The same by the architecture's rules: it has PAN, and hardware management of flags that the
    // kernel leaves off.
    let mmu = TraceLevel::Mmu;
    let run = pi5().lossless().trace(mmu).run(&["story"]);
    let report = check(&mut &run.bytes[..], 8).expect("a trace");
    assert_eq!(report.verdict, Verdict::Clean, "{:#?}", report.findings);
    assert!(report.translation.is_some_and(|rules| rules.tlbis > 2));
}

#[test]
fn raspberry_pis() {
    // Without a device tree the boot loader tells of 960 MiB: the GPU has the rest of the first GiB,
    // and of the second one on a Pi 4 it says nothing.
    let run = runs(Boot::on(Board::Raspi3b), 4, 960);
    assert_eq!(part(&run), (ARM, 0xd03));
    assert!(board(&run).contains('3'), "{}", board(&run));
    let run = runs(Boot::on(Board::Raspi4b), 4, 960);
    assert_eq!(part(&run), (ARM, 0xd08));
    assert!(board(&run).contains('4'), "{}", board(&run));
}
