//! Function and source line of an instruction, from the programs' own ELF and DWARF.
//!
//! Programs are recognised by their GNU build id; a program without one by its file name.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use addr2line::Loader;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, Object, ReadCache, ReadCacheOps, elf};
use rustc_hash::FxHashMap;
use serde::Serialize;

use super::machine;
use super::space::{Code, Place};

/// Where ELF files are looked for.
#[derive(Clone, Debug, Default)]
pub struct SearchPath {
    /// Files.
    pub files: Vec<PathBuf>,
    /// Directories whose files are tried (not those below).
    pub directories: Vec<PathBuf>,
    /// Root file systems of guests: a file is where it was in the guest.
    pub roots: Vec<PathBuf>,
}

/// One source-level frame of an instruction: the innermost first if code was inlined there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct SourceFrame {
    /// Demangled name of the function.
    pub function: String,
    /// Path of the source file, as the compiler was given it.
    pub file: Option<String>,
    /// Line.
    pub line: Option<u32>,
}

impl SourceFrame {
    /// Whether it is code of the language's own libraries, which says little about the program.
    pub fn is_runtime(&self) -> bool {
        let file = self.file.as_deref().unwrap_or_default();
        file.starts_with("/rustc/")
            || file.contains("/library/core/")
            || file.contains("/library/alloc/")
            || file.contains("/library/std/")
            || file.contains("/compiler_builtins")
            || file.contains("/compiler-builtins")
    }

    /// The function's own name, without path and generic arguments.
    pub fn name(&self) -> String {
        let short = short_name(&self.function);
        short.rsplit("::").next().unwrap_or_default().to_owned()
    }

    /// `function (file:line)`, shortened for a line on a terminal.
    pub fn short(&self) -> String {
        let function = short_name(&self.function);
        match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{function} ({}:{line})", short_path(file)),
            (Some(file), None) => format!("{function} ({})", short_path(file)),
            _ => function,
        }
    }
}

/// The last two components of a path.
fn short_path(path: &str) -> &str {
    let mut slashes = path.rmatch_indices('/').map(|(at, _)| at);
    slashes.nth(1).map_or(path, |at| &path[at + 1..])
}

/// A function's name with the last part of its path and without type arguments:
/// `<a::b::C<d::E> as f::G>::h::<5>` is `C::h`.
pub fn short_name(name: &str) -> String {
    // Without what is between angle brackets, but for the type that a method belongs to.
    let mut plain = String::with_capacity(name.len());
    let (mut depth, mut kept) = (0u32, 0u32);
    let (mut rest, mut before) = (name, ' ');
    while let Some(letter) = rest.chars().next() {
        match letter {
            '<' if depth == 0 && plain.is_empty() => (depth, kept) = (1, 1),
            '<' => depth += 1,
            // The arrow of a function type is no bracket.
            '>' if before != '-' => depth = depth.saturating_sub(1),
            ' ' if depth == 1 && kept == 1 && rest.starts_with(" as ") => kept = 0,
            _ if depth == 0 || depth == kept => plain.push(letter),
            _ => {}
        }
        (rest, before) = (&rest[letter.len_utf8()..], letter);
    }
    let parts: Vec<&str> = plain.split("::").filter(|part| !part.is_empty()).collect();
    let short = parts[parts.len().saturating_sub(2)..].join("::");
    if short.is_empty() {
        name.to_owned()
    } else {
        short
    }
}

/// A PT_LOAD: offset in the file, size there, address, whether it is executable.
type Segment = (u64, u64, u64, bool);

struct Image {
    loader: Loader,
    segments: Vec<Segment>,
    /// It can be loaded anywhere (ET_DYN).
    relocatable: bool,
}

/// All symbols, loaded as they are needed.
pub struct Symbols {
    path: SearchPath,
    index: Option<Index>,
    images: FxHashMap<u32, Option<Image>>,
    cache: FxHashMap<(Code, bool), Rc<[SourceFrame]>>,
    problems: Vec<String>,
}

#[derive(Default)]
struct Index {
    by_build_id: FxHashMap<Vec<u8>, PathBuf>,
    by_name: FxHashMap<String, PathBuf>,
}

impl Symbols {
    /// Symbols of the ELF files on `path`.
    pub fn new(path: SearchPath) -> Self {
        Symbols {
            path,
            index: None,
            images: FxHashMap::default(),
            cache: FxHashMap::default(),
            problems: Vec::new(),
        }
    }

    /// What could not be found or read, for the user.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The ELF file with a build id.
    pub fn find(&mut self, build_id: &[u8]) -> Option<PathBuf> {
        let path = &self.path;
        let index = self.index.get_or_insert_with(|| Index::new(path));
        index.by_build_id.get(build_id).cloned()
    }

    /// Source frames of an instruction, innermost first; empty if nothing is known.
    ///
    /// `call`: the address is a return address, so that the call before it is meant.
    pub fn frames(
        &mut self,
        files: &FxHashMap<u32, machine::File>,
        code: Code,
        call: bool,
    ) -> Rc<[SourceFrame]> {
        if let Some(known) = self.cache.get(&(code, call)) {
            return known.clone();
        }
        if !self.images.contains_key(&code.file) {
            // A file the kernel has not told of yet may still come: do not remember its absence.
            let Some(file) = files.get(&code.file) else {
                return Rc::default();
            };
            let image = self.load(file);
            self.images.insert(code.file, image);
        }
        let frames = match self.images.get(&code.file) {
            Some(Some(image)) => image.frames(code.place, call),
            _ => Vec::new(),
        };
        let frames: Rc<[SourceFrame]> = frames.into();
        self.cache.insert((code, call), frames.clone());
        frames
    }

    fn load(&mut self, file: &machine::File) -> Option<Image> {
        let path = &self.path;
        let index = self.index.get_or_insert_with(|| Index::new(path));
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let found = if file.build_id.is_empty() {
            index.by_name.get(name)
        } else {
            index.by_build_id.get(&file.build_id)
        };
        let in_root = || self.path.roots.iter().find_map(|root| in_root(root, file));
        let Some(found) = found.cloned().or_else(in_root) else {
            let id = super::stream::hex(&file.build_id);
            self.problems.push(if file.build_id.is_empty() {
                format!(
                    "no ELF file named {name} for {}: name one with --elf",
                    file.path
                )
            } else {
                format!(
                    "no ELF file with build id {id} for {}: try --elf or --elf-dir",
                    file.path
                )
            });
            return None;
        };
        match Image::load(&found) {
            Ok(image) => Some(image),
            Err(error) => {
                self.problems.push(format!("{}: {error}", found.display()));
                None
            }
        }
    }
}

impl Index {
    fn new(path: &SearchPath) -> Self {
        let mut index = Index::default();
        let below = path
            .directories
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten();
        let below = below.filter_map(|entry| Some(entry.ok()?.path()));
        for file in path.files.iter().cloned().chain(below) {
            let Some(build_id) = build_id(&file) else {
                continue;
            };
            if let Some(name) = file.file_name().and_then(OsStr::to_str) {
                index
                    .by_name
                    .entry(name.to_owned())
                    .or_insert_with(|| file.clone());
            }
            if !build_id.is_empty() {
                index.by_build_id.entry(build_id).or_insert(file);
            }
        }
        index
    }
}

/// The file of a guest in its root file system, if that is the same one.
fn in_root(root: &Path, file: &machine::File) -> Option<PathBuf> {
    // From a trace, and so from anywhere: nothing above the root is looked at.
    let path = Path::new(file.path.trim_start_matches('/'));
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    let path = path.components().all(plain).then(|| root.join(path))?;
    (build_id(&path)? == file.build_id).then_some(path)
}

/// The build id of an ELF file, empty if it has none; `None` if it is no ELF file.
fn build_id(path: &Path) -> Option<Vec<u8>> {
    if !path.is_file() {
        return None;
    }
    let cache = ReadCache::new(File::open(path).ok()?);
    let file = object::File::parse(&cache).ok()?;
    (file.format() == object::BinaryFormat::Elf)
        .then(|| file.build_id().ok().flatten().unwrap_or_default().to_vec())
}

impl Image {
    fn load(path: &Path) -> Result<Image, Box<dyn std::error::Error>> {
        let cache = ReadCache::new(File::open(path)?);
        let (segments, relocatable) = segments(&cache)?;
        let loader = Loader::new(path)?;
        Ok(Image {
            loader,
            segments,
            relocatable,
        })
    }

    fn address(&self, place: Place) -> Option<u64> {
        match place {
            Place::Linked(address) => (!self.relocatable).then_some(address),
            Place::Image(delta) => {
                let lowest = self
                    .segments
                    .iter()
                    .map(|(_, _, address, _)| *address)
                    .min()?;
                Some((lowest & !(super::descriptor::PAGE_SIZE - 1)).wrapping_add(delta))
            }
            Place::Offset(offset) => {
                // Neighbouring segments share the file's pages at their borders: code comes first.
                let holds = |segment: &&Segment| {
                    offset
                        .checked_sub(segment.0)
                        .is_some_and(|into| into < segment.1)
                };
                let (from, _, address, _) = self
                    .segments
                    .iter()
                    .filter(holds)
                    .max_by_key(|segment| segment.3)?;
                Some(address.wrapping_add(offset - from))
            }
        }
    }

    fn frames(&self, place: Place, call: bool) -> Vec<SourceFrame> {
        let Some(address) = self.address(place) else {
            return Vec::new();
        };
        let address = address.saturating_sub(u64::from(call));
        let mut frames = Vec::new();
        if let Ok(mut inlined) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = inlined.next() {
                let function = frame
                    .function
                    .as_ref()
                    .and_then(|name| Some(plain_name(&name.demangle().ok()?)));
                let location = frame.location.as_ref();
                let file = location
                    .and_then(|location| location.file)
                    .map(str::to_owned);
                let line = location.and_then(|location| location.line);
                if function.is_some() || file.is_some() {
                    let function = function.unwrap_or_else(|| "?".to_owned());
                    frames.push(SourceFrame {
                        function,
                        file,
                        line,
                    });
                }
            }
        }
        // Without DWARF, or in assembly, the symbol table may still have a name.
        if frames.iter().all(|frame| frame.function == "?")
            && let Some(symbol) = self.loader.find_symbol(address)
        {
            let name = addr2line::demangle_auto(symbol.into(), None);
            let function = plain_name(&name);
            match frames.last_mut() {
                Some(frame) => frame.function = function,
                None => frames.push(SourceFrame {
                    function,
                    file: None,
                    line: None,
                }),
            }
        }
        frames
    }
}

/// A demangled name without the hash that the older scheme puts behind it.
fn plain_name(name: &str) -> String {
    match name.rsplit_once("::h") {
        Some((plain, hash))
            if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            plain.to_owned()
        }
        _ => name.to_owned(),
    }
}

/// The functions of one program that runs where it was linked, such as the kernel.
pub struct Linked(Image);

impl Linked {
    /// Of an ELF file; none: it is no such program, or has no symbols.
    pub fn load(path: &Path) -> Option<Linked> {
        let image = Image::load(path).ok()?;
        (!image.relocatable).then_some(Linked(image))
    }

    /// Says behind each address of the program in `line` where that is, as far as it is known. They
    /// are return addresses: the call is meant.
    pub fn annotate(&self, line: &str) -> String {
        let mut text = String::with_capacity(line.len());
        let mut rest = line;
        while let Some(at) = rest.find("0x") {
            let digits = &rest[at + 2..];
            let len = digits.bytes().take_while(u8::is_ascii_hexdigit).count();
            let (before, after) = rest.split_at(at + 2 + len);
            text.push_str(before);
            rest = after;
            let address = u64::from_str_radix(&digits[..len], 16).unwrap_or_default();
            if !self.is_code(address) {
                continue;
            }
            let frames = self.0.frames(Place::Linked(address), true);
            let names: Vec<String> = frames.iter().map(SourceFrame::short).collect();
            if !names.is_empty() {
                text.push(' ');
                text.push_str(&names.join(" < "));
            }
        }
        text.push_str(rest);
        text
    }

    fn is_code(&self, address: u64) -> bool {
        let mut segments = self.0.segments.iter();
        segments.any(|&(_, size, start, code)| code && (start..start + size).contains(&address))
    }
}

/// The PT_LOAD segments, and whether the file can be loaded anywhere.
fn segments<R: ReadCacheOps>(
    cache: &ReadCache<R>,
) -> Result<(Vec<Segment>, bool), object::read::Error> {
    let header = elf::FileHeader64::<Endianness>::parse(cache)?;
    let endian = header.endian()?;
    let loads = header.program_headers(endian, cache)?.iter();
    let loads = loads.filter(|segment| segment.p_type(endian) == elf::PT_LOAD);
    let segments = loads.map(|segment| {
        let executable = segment.p_flags(endian).contains(elf::PF_X);
        let (offset, size) = (segment.p_offset(endian), segment.p_filesz(endian));
        (offset, size, segment.p_vaddr(endian), executable)
    });
    Ok((segments.collect(), header.e_type(endian) == elf::ET_DYN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shortened() {
        for (name, short) in [
            ("main", "main"),
            ("user::syscall::syscall::<5>", "syscall::syscall"),
            ("<user::memory::Pages>::write_word", "Pages::write_word"),
            (
                "<core::result::Result<a::B, c::D> as user::print::OrFail<a::B>>::or_fail",
                "Result::or_fail",
            ),
            (
                "story::fork_of_a_large_process::{closure#0}",
                "fork_of_a_large_process::{closure#0}",
            ),
            ("<*mut u64>::write_volatile", "*mut u64::write_volatile"),
            ("<T as a::B>::c::<fn() -> u8>", "T::c"),
            ("operator<", "operator"),
        ] {
            assert_eq!(short_name(name), short, "{name}");
        }
        assert_eq!(short_path("/a/b/src/main.rs"), "src/main.rs");
        assert_eq!(short_path("main.c"), "main.c");
    }
}
