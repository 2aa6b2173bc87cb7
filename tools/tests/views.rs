//! What other programs show of a trace: flame graphs, timelines and tables, through the binary.

#[allow(dead_code)]
mod support;

use std::path::Path;
use std::process::Command;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use prost::Message;
use support::{Kernel, PAGE};
use wire::event::{ForkMode, Outcome};

const V: u64 = 0x7000_0000;

/// A fork whose child copies two of three pages.
fn trace(dir: &Path, name: &str, copies: u64) -> String {
    let mut kernel = Kernel::boot();
    kernel.map(1, V, 3);
    for page in 0..3 {
        kernel.access(1, V + page * PAGE, true);
    }
    let child = kernel.fork(1, ForkMode::Classic);
    kernel.switch(1, child);
    for page in 0..copies {
        let outcome = kernel.access(child, V + page * PAGE, true);
        assert_eq!(outcome, Some(Outcome::CowCopy));
    }
    kernel.switch(child, 1);
    kernel.exit(child, 1, 0);
    kernel.snapshot();
    let path = dir.join(name);
    std::fs::write(&path, kernel.end()).expect("the trace is written");
    path.to_str().expect("UTF-8").to_owned()
}

/// Status, standard output and standard error.
fn cowscope(args: &[&str]) -> (i32, Vec<u8>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cowscope"))
        .args(args)
        .output()
        .expect("cowscope runs");
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    (
        output.status.code().expect("no signal"),
        output.stdout,
        errors,
    )
}

fn text(args: &[&str]) -> String {
    let (code, out, errors) = cowscope(args);
    assert_eq!(code, 0, "{args:?}: {errors}");
    assert!(errors.contains("Loss: none"), "{args:?}: {errors}");
    String::from_utf8(out).expect("UTF-8")
}

#[test]
fn flame_graphs_count_each_fault_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let trace_1 = &trace(dir.path(), "a.cow", 2);
    let sum = |text: &str| -> u64 {
        let last = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok());
        text.lines().map(|line| last(line).expect("a number")).sum()
    };
    let all = text(&["flame", trace_1, "--format", "folded"]);
    assert_eq!(sum(&all), 5, "{all}");
    let copied = "cow-copy 2";
    assert!(
        all.lines()
            .any(|line| line.starts_with("child;") && line.ends_with(copied)),
        "{all}"
    );
    let copies = ["--outcome", "cow-copy", "--by", "bytes"];
    let copied = text(&[&["flame", trace_1, "--format", "folded"], &copies[..]].concat());
    assert_eq!(sum(&copied), 2 * 4096, "{copied}");
    assert_eq!(text(&["export", trace_1, "--format", "folded"]), all);

    let trace_2 = &trace(dir.path(), "b.cow", 3);
    let both = ["flame", trace_2, "--diff", trace_1, "--format", "folded"];
    let both = text(&both);
    let changed = both.lines().filter(|line| line.ends_with(" 2 3")).count();
    assert_eq!(changed, 1, "{both}");

    let picture = dir.path().join("copies.svg");
    let picture = picture.to_str().expect("UTF-8");
    assert_eq!(text(&["flame", trace_1, "-o", picture]), "");
    let drawn = std::fs::read_to_string(picture).expect("the picture is there");
    assert!(drawn.starts_with("<?xml") && drawn.contains("cow-copy"));
    // It is not lost to a second one without being asked.
    let again = ["flame", trace_1, "-o", picture, "--outcome", "zero-fill"];
    let (code, _, errors) = cowscope(&again);
    assert_eq!(code, 2);
    assert!(errors.contains("--force"), "{errors}");
    assert_eq!(std::fs::read_to_string(picture).expect("as before"), drawn);
    text(&[&again[..], &["--force"]].concat());
    assert_ne!(std::fs::read_to_string(picture).expect("new"), drawn);
    // Nothing that was not finished stays.
    let nothing = dir.path().join("nothing.svg");
    let (code, _, errors) = cowscope(&[
        "flame",
        trace_1,
        "--outcome",
        "exec",
        "-o",
        nothing.to_str().expect("UTF-8"),
    ]);
    assert_eq!(code, 2);
    assert!(errors.contains("no fault"), "{errors}");
    assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 3);
}

#[test]
fn tables_hold_the_faults_that_were_chosen() {
    let dir = tempfile::tempdir().expect("a folder");
    let trace = &trace(dir.path(), "a.cow", 2);
    let lines = text(&["export", trace, "--format", "csv", "--mapping", "mmap"]);
    assert_eq!(lines.lines().count(), 6, "{lines}");
    let lines = text(&["export", trace, "--format", "csv", "--mapping", "heap"]);
    assert_eq!(lines.lines().count(), 0, "{lines}");
    let lines = text(&["export", trace, "--format", "jsonl", "--pid", "2"]);
    let rows: Vec<serde_json::Value> = lines
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(rows.len(), 2, "{lines}");
    assert_eq!(rows[1]["mapping"], "mmap");
    assert_eq!(rows[1]["mapping_offset"], "0x1000");

    let (code, _, errors) = cowscope(&["export", trace, "--format", "parquet"]);
    assert_eq!(code, 2);
    assert!(errors.contains("-o FILE"), "{errors}");
    let table = dir.path().join("a.parquet");
    let path = table.to_str().expect("UTF-8");
    text(&["export", trace, "--format", "parquet", "-o", path]);
    let file = std::fs::File::open(&table).expect("the table is there");
    let reader = SerializedFileReader::new(file).expect("it is Parquet");
    let rows = reader.get_row_iter(None).expect("rows");
    let rows: Vec<_> = rows.map(|row| row.expect("a row")).collect();
    assert_eq!(rows.len(), 5);
    let value = |row: usize, name: &str| -> Field {
        let mut columns = rows[row].get_column_iter();
        let found = columns.find(|(column, _)| column.as_str() == name);
        found.expect("the column").1.clone()
    };
    assert_eq!(value(4, "address"), Field::ULong(V + PAGE));
    assert_eq!(value(4, "outcome"), Field::Str("cow-copy".to_owned()));
    assert_eq!(value(4, "broke_fork_of"), Field::ULong(2));
    assert_eq!(value(0, "broke_fork_of"), Field::Null);
}

/// A dump leaves out faults that are not chosen, and nothing else.
#[test]
fn a_dump_holds_the_faults_that_were_chosen() {
    let dir = tempfile::tempdir().expect("a folder");
    let trace = &trace(dir.path(), "a.cow", 2);
    let all = text(&["dump", trace]);
    let chosen = text(&["dump", trace, "--outcome", "cow-copy"]);
    let faults = |text: &str| text.lines().filter(|line| line.contains("fault")).count();
    assert_eq!((faults(&all), faults(&chosen)), (5, 2), "{all}");
    assert_eq!(all.lines().count() - chosen.lines().count(), 3);
}

#[test]
fn what_grew_too_much_is_a_finding() {
    let dir = tempfile::tempdir().expect("a folder");
    let before = &trace(dir.path(), "a.cow", 1);
    let after = &trace(dir.path(), "b.cow", 2);
    let (code, out, errors) = cowscope(&["diff", before, after]);
    let out = String::from_utf8(out).expect("UTF-8");
    assert_eq!(code, 0, "{errors}");
    assert!(out.contains("pages and tables copied by writes"), "{out}");
    assert!(out.contains("+100.0 %"), "{out}");
    assert_eq!(out.matches("Loss: none").count(), 2, "{out}");
    let run = |limit: &str, one, other| cowscope(&["diff", one, other, "--fail-above", limit]).0;
    assert_eq!(run("copies=50", before, after), 1);
    assert_eq!(run("copies=100", before, after), 0);
    assert_eq!(run("forks=0", before, after), 0);
    assert_eq!(run("copies=0", after, before), 0, "it has become less");
    assert_eq!(run("pages=0", before, after), 2);
    let (code, out, _) = cowscope(&["diff", before, before, "--format", "json"]);
    let same: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!((code, &same["schema_version"]), (0, &1.into()));
    assert_eq!(
        same["metrics"][1][1]["before"],
        same["metrics"][1][1]["after"]
    );
    // Only what is chosen is compared, forks too.
    let chosen = |filter: &[&str]| {
        let mut args = vec!["diff", before, after, "--format", "json"];
        args.extend(filter);
        let report: serde_json::Value = serde_json::from_slice(&cowscope(&args).1).expect("JSON");
        ["copies", "faults", "forks"].map(|name| {
            let metrics = report["metrics"].as_array().expect("metrics");
            let metric = metrics.iter().find(|metric| metric[0] == name);
            let pair = &metric.expect("the metric")[1];
            [&pair["before"], &pair["after"]].map(|value| value.as_u64().expect("a number"))
        })
    };
    let [copies, faults, forks] = chosen(&[]);
    assert_eq!(faults, [3 + copies[0], 3 + copies[1]]);
    assert_eq!(forks, [1, 1]);
    assert_eq!(chosen(&["--pid", "2"]), [copies, copies, [0, 0]]);
    assert_eq!(chosen(&["--pid", "1"]), [[0, 0], [3, 3], [1, 1]]);
    assert_eq!(chosen(&["--addr", "0x70000000"]), [[1, 1], [2, 2], [1, 1]]);
    assert_eq!(chosen(&["--mapping", "stack"])[..2], [[0, 0]; 2]);
    assert_eq!(chosen(&["--time", "100s-"]), [[0, 0]; 3]);
    let (code, _, errors) = cowscope(&["diff", before, "nowhere.cow"]);
    assert_eq!(code, 3);
    assert!(errors.contains("nowhere.cow"), "{errors}");
}

#[test]
fn the_page_holds_all_it_shows() {
    let dir = tempfile::tempdir().expect("a folder");
    let trace = &trace(dir.path(), "a.cow", 2);
    let page = text(&["html", trace]);
    for elsewhere in ["src=\"http", "href=\"http", "url(http", "@STYLE@", "@DATA@"] {
        assert!(!page.contains(elsewhere), "{elsewhere} is in the page");
    }
    let (_, rest) = page.split_once("id=\"data\">").expect("the data");
    let (data, _) = rest.split_once("</script>").expect("its end");
    let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
    assert_eq!(data["faults"].as_array().map(Vec::len), Some(5));
    assert_eq!(
        data["report"]["loss_line"].as_str().map(|line| &line[..10]),
        Some("Loss: none")
    );
    // At the fork, parent and child share three pages (class 1); at the end the parent has them alone.
    let spaces = |picture: &serde_json::Value| -> Vec<(u64, serde_json::Value)> {
        let spaces = picture["spaces"].as_array().expect("spaces").iter();
        spaces
            .map(|space| (space[0].as_u64().expect("a pid"), space[1].clone()))
            .collect()
    };
    let pictures = data["pictures"].as_array().expect("pictures");
    let fork = pictures
        .iter()
        .find(|picture| picture["after"] == "fork 1 > 2");
    let shared = serde_json::json!([[V / PAGE, 3, 1]]);
    let at_fork = spaces(fork.expect("a picture of the fork"));
    assert_eq!(at_fork, [(1, shared.clone()), (2, shared)]);
    let at_end = spaces(pictures.last().expect("a picture of the end"));
    assert_eq!(at_end, [(1, serde_json::json!([[V / PAGE, 3, 0]]))]);
}

/// What the test looks at of Perfetto's messages, written down apart from what writes them.
#[derive(Clone, PartialEq, Message)]
struct Trace {
    #[prost(message, repeated, tag = "1")]
    packet: Vec<Packet>,
}

#[derive(Clone, PartialEq, Message)]
struct Packet {
    #[prost(uint64, optional, tag = "8")]
    timestamp: Option<u64>,
    #[prost(message, optional, tag = "11")]
    event: Option<Event>,
    #[prost(message, optional, tag = "60")]
    track: Option<Track>,
}

#[derive(Clone, PartialEq, Message)]
struct Track {
    #[prost(uint64, optional, tag = "1")]
    uuid: Option<u64>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(int32, optional, tag = "9")]
    kind: Option<i32>,
    #[prost(uint64, optional, tag = "11")]
    track: Option<u64>,
    #[prost(string, optional, tag = "23")]
    name: Option<String>,
    #[prost(int64, optional, tag = "30")]
    counter: Option<i64>,
}

#[test]
fn the_timeline_has_a_track_for_all_that_happened() {
    let dir = tempfile::tempdir().expect("a folder");
    let trace = &trace(dir.path(), "a.cow", 2);
    let path = dir.path().join("a.pftrace");
    let name = path.to_str().expect("UTF-8");
    text(&["timeline", trace, "-o", name]);
    let bytes = std::fs::read(&path).expect("the timeline is there");
    let packets = Trace::decode(&bytes[..]).expect("it is Perfetto's").packet;
    let tracks: Vec<&Track> = packets.iter().filter_map(|p| p.track.as_ref()).collect();
    let events: Vec<(u64, &Event)> = packets
        .iter()
        .filter_map(|packet| Some((packet.timestamp?, packet.event.as_ref()?)))
        .collect();
    // Every event has its track, which was described before.
    for (at, packet) in packets.iter().enumerate() {
        let Some(event) = &packet.event else { continue };
        let mut before = packets[..at].iter().filter_map(|p| p.track.as_ref());
        assert!(before.any(|track| track.uuid == event.track), "{event:?}");
    }
    let named = |name: &str| -> usize {
        let mut names = events.iter().map(|(_, event)| event.name.as_deref());
        names.by_ref().filter(|found| *found == Some(name)).count()
    };
    assert_eq!(named("zero-fill"), 3);
    assert_eq!(named("cow-copy"), 2);
    assert_eq!(named("fork (classic)"), 1);
    assert_eq!(named("exit 0"), 1);
    // Slices begin and end, in this order, on each track.
    for track in &tracks {
        let own = events.iter().filter(|(_, event)| event.track == track.uuid);
        let mut open = 0;
        let mut last = 0;
        for (time, event) in own {
            match event.kind {
                Some(1) => open += 1,
                Some(2) => open -= 1,
                _ => {}
            }
            assert!(*time >= last, "{track:?} goes back in time");
            last = *time;
            assert!(open == 0 || open == 1, "{track:?}: {open} open slices");
        }
        assert_eq!(open, 0, "{track:?}");
    }
    // Three pages are shared by the fork, and two of them copied.
    let shared = tracks
        .iter()
        .filter(|track| track.name.as_deref() == Some("pages shared"));
    let mut most = 0;
    for track in shared {
        let own = events.iter().filter(|(_, event)| event.track == track.uuid);
        most = own
            .filter_map(|(_, e)| e.counter)
            .max()
            .unwrap_or(0)
            .max(most);
    }
    assert_eq!(most, 3);
}
