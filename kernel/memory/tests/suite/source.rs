//! The places in the crate's source where a test may leave something out: calls of the functions
//! that begin with `leave_out!`, or pass on to one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use memory::mutate::Site;

const MARK: &str = "#[cfg_attr(feature = \"mutate\", track_caller)]";

/// A function, as far as it matters here.
struct Function {
    file: String,
    /// The type it belongs to, if any.
    of: Option<String>,
    name: String,
    method: bool,
    public: bool,
    marked: bool,
    /// Line numbers, from 1, and the code on them.
    body: Vec<(u32, String)>,
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

fn files(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the source") {
        let path = entry.expect("the source").path();
        if path.is_dir() {
            files(&path, all);
        } else {
            all.push(path);
        }
    }
}

/// The functions of the crate. The source is formatted: a function and an `impl` begin on lines of
/// their own, and an `impl` ends with a brace in the first column.
fn functions() -> Vec<Function> {
    let mut all: Vec<Function> = Vec::new();
    let mut paths = Vec::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    files(&dir, &mut paths);
    for path in paths {
        let file = path.strip_prefix(&dir).expect("below it");
        let file = file.to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("the source");
        let (mut of, mut marked, mut inside) = (None, false, false);
        for (number, line) in (1..).zip(text.lines()) {
            let code = line.split("//").next().unwrap_or_default();
            let trimmed = code.trim();
            if trimmed == "#[cfg(test)]" {
                break;
            }
            if let Some(rest) = line.strip_prefix("impl") {
                let rest = rest.split_once(" for ").map_or(rest, |(_, rest)| rest);
                let rest = rest
                    .trim_start_matches(|c: char| c != '>')
                    .trim_start_matches("> ");
                let rest = if rest.is_empty() {
                    line.trim_start_matches("impl ")
                } else {
                    rest
                };
                of = Some(word(rest).to_string());
            } else if let Some(rest) = line.strip_prefix("pub trait ") {
                of = Some(word(rest).to_string());
            } else if line == "}" {
                of = None;
                inside = false;
            }
            // `Mmu` says so in all builds.
            let mmu = of.as_deref() == Some("Mmu");
            marked |= trimmed == MARK || mmu && trimmed == "#[track_caller]";
            let head = trimmed.split_once("fn ").filter(|(before, _)| {
                before
                    .split(' ')
                    .all(|word| word.is_empty() || word.starts_with("pub") || word == "const")
            });
            if let Some((before, rest)) = head {
                all.push(Function {
                    file: file.clone(),
                    of: of.clone(),
                    name: word(rest).to_string(),
                    method: false,
                    public: before.starts_with("pub") || mmu,
                    marked: std::mem::take(&mut marked),
                    body: Vec::new(),
                });
                inside = true;
            }
            if let (true, Some(function)) = (inside, all.last_mut()) {
                if !function.body.iter().any(|(_, code)| code.contains('{')) {
                    let first = code.split_once("fn ").map_or(code, |(_, rest)| rest);
                    let first = first.split_once('(').map_or(code, |(_, rest)| rest).trim();
                    function.method |= ["self", "&self", "&mut self", "mut self"]
                        .iter()
                        .any(|own| first.starts_with(own));
                }
                function.body.push((number, code.to_string()));
            }
        }
    }
    all
}

/// Columns, from 1, of calls on a line: of the name, and of the path before it.
fn calls(code: &str, function: &Function) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&function.name) {
        let (before, after) = (&code[..at], &code[at + function.name.len()..]);
        if !after.starts_with('(') && !after.starts_with("::<") {
            continue;
        }
        let path = match (&function.of, function.method) {
            (_, true) if before.ends_with('.') => at,
            (Some(of), _) => match before
                .strip_suffix("::")
                .and_then(|rest| rest.strip_suffix(of.as_str()))
            {
                Some(rest) => rest.len(),
                None => continue,
            },
            (None, _)
                if !before.ends_with(|c: char| c.is_alphanumeric() || "_.:".contains(c))
                    && !before.ends_with("fn ") =>
            {
                at
            }
            _ => continue,
        };
        found.push((at as u32 + 1, path as u32 + 1));
    }
    found
}

/// The places in the source that are not among those met.
pub fn not_among<'a>(met: impl Iterator<Item = &'a Site>) -> Vec<String> {
    let met: BTreeSet<(&str, u32, u32)> = met
        .filter_map(|site| Some((site.file.split_once("/src/")?.1, site.line, site.column)))
        .collect();
    let functions = functions();
    let marked: Vec<&Function> = functions
        .iter()
        .filter(|function| function.marked)
        .collect();
    assert!(
        marked.len() > 20,
        "only {} marked functions were found",
        marked.len()
    );
    let mut places = 0;
    let mut missing = Vec::new();
    for caller in functions.iter().filter(|function| !function.marked) {
        for (line, code) in &caller.body {
            for callee in &marked {
                if !callee.public && callee.file != caller.file {
                    continue;
                }
                for (name, path) in calls(code, callee) {
                    places += 1;
                    let file = caller.file.as_str();
                    if ![name, path]
                        .iter()
                        .any(|column| met.contains(&(file, *line, *column)))
                    {
                        missing.push(format!(
                            "{file}:{line}:{name} {} in {}",
                            callee.name, caller.name
                        ));
                    }
                }
            }
        }
    }
    println!("{places} calls of {} functions in the source", marked.len());
    missing
}

/// Whatever changes a reference count or writes a descriptor can be left out.
#[test]
fn no_count_and_no_descriptor_changes_where_no_test_can_leave_it_out() {
    const CHANGES: [&str; 6] = [
        "refs.fetch_",
        "refs.store(",
        "refs.compare_exchange",
        "refs.swap(",
        ".refs.fetch_update",
        ".write_descriptor(",
    ];
    // A new frame's first reference, without which it is no frame in use; and a preset for tests.
    const OTHERS: [&str; 2] = ["allocate", "set_refs"];
    let mut checked = 0;
    for function in functions() {
        let changes =
            |(_, code): &&(u32, String)| CHANGES.iter().any(|change| code.contains(change));
        let Some((line, _)) = function.body.iter().find(changes) else {
            continue;
        };
        checked += 1;
        let switch = function
            .body
            .iter()
            .any(|(_, code)| code.contains("leave_out!("));
        assert!(
            switch || OTHERS.contains(&function.name.as_str()),
            "{}:{line}: {} has no leave_out!",
            function.file,
            function.name
        );
        assert!(
            !switch || function.marked,
            "{} is not track_caller",
            function.name
        );
    }
    assert!(checked >= 5, "{checked}");
}
