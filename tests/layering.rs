//! The rungs of the crate, enforced: a module uses modules below its own rung, and a neighbour only along an arrow.
//! Reads the imports; also: who may name which library, the purity of the rules, and the length of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the top down. A module may use every rung below its own.
const RUNGS: &[&[&str]] = &[
    &["cli", "gateway", "node", "web", "config"],
    &["calls", "locator"],
    &["sip", "media", "overlay", "relay", "store"],
    &["dht"],
    &["record", "admission", "ledger", "directory", "reachability"],
    &["clock", "identity", "uri", "wire", "telemetry"],
];

/// The sideways arrows. Words are values: among themselves they are free (but see `words_have_no_cycle`).
const ARROWS: &[(&str, &str)] = &[
    ("cli", "gateway"),
    ("cli", "node"),
    ("cli", "web"),
    ("cli", "config"),
    ("gateway", "node"),
    ("node", "web"),
    ("node", "config"),
    ("calls", "locator"),
    ("overlay", "relay"),
    ("overlay", "store"),
    ("relay", "store"),
    ("admission", "ledger"),
];

/// A library, and where alone it may be named.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("libp2p", &["overlay.rs", "overlay/"]),
    ("hickory_resolver", &["overlay/"]),
    ("libp2p_connection_limits", &["overlay.rs", "overlay/"]),
    ("rsipstack", &["sip.rs", "sip/"]),
    // The tests name our submodule `sled`.
    ("sled", &["store/sled.rs", "store/tests.rs"]),
    ("rtc_srtp", &["media.rs", "media/"]),
    ("sdp_types", &["media.rs", "media/"]),
    ("axum", &["web.rs", "web/"]),
    ("clap", &["cli.rs", "cli/", "config.rs", "config/"]),
    ("anyhow", &["cli.rs", "cli/", "main.rs"]),
];

/// What pure decisions never touch: other tasks, the outside, the time.
const NOT_IN_RULES: &[&str] = &[
    "tokio",
    "async fn",
    ".await",
    "std::fs",
    "std::env",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "UnixMillis::now",
    "UdpSocket",
    "TcpStream",
    "TcpListener",
];

/// Lines. A file that grows past it holds two ideas.
const LONGEST_FILE: usize = 500;

struct Source {
    /// Relative to `src`.
    path: String,
    /// Top-level module.
    module: String,
    /// How many modules deep the file is: `sip.rs` is 1, `sip/core.rs` is 2.
    depth: usize,
    /// Without comments and string contents.
    code: String,
}

fn rung(module: &str) -> Option<usize> {
    RUNGS.iter().position(|rung| rung.contains(&module))
}

fn allowed(from: &str, to: &str) -> bool {
    match (rung(from), rung(to)) {
        _ if from == to => true,
        (Some(from_rung), Some(to_rung)) if from_rung == to_rung => {
            from_rung + 1 == RUNGS.len() || ARROWS.contains(&(from, to))
        }
        (Some(from_rung), Some(to_rung)) => from_rung < to_rung,
        _ => false,
    }
}

#[test]
fn modules_use_only_what_is_below_them() {
    let mut broken = BTreeSet::new();
    for source in sources() {
        for used in uses(&source) {
            if !allowed(&source.module, &used) {
                broken.insert(format!("src/{}: `{}` must not use `{used}`", source.path, source.module));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn every_module_stands_on_a_rung() {
    let strays: BTreeSet<String> =
        sources().into_iter().map(|s| s.module).filter(|module| rung(module).is_none()).collect();
    assert!(strays.is_empty(), "on no rung: {strays:?}");
}

#[test]
fn words_have_no_cycle() {
    let words = RUNGS[RUNGS.len() - 1];
    let mut uses_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().into_iter().filter(|s| words.contains(&s.module.as_str())) {
        let used = uses(&source).into_iter().filter(|m| words.contains(&m.as_str()) && *m != source.module);
        uses_of.entry(source.module.clone()).or_default().extend(used);
    }
    // Take away what uses nothing any more until nothing is left.
    while let Some(free) = uses_of.iter().find(|(_, used)| used.is_empty()).map(|(module, _)| module.clone()) {
        uses_of.remove(&free);
        for used in uses_of.values_mut() {
            used.remove(&free);
        }
    }
    assert!(uses_of.is_empty(), "a circle among the words: {uses_of:?}");
}

#[test]
fn libraries_are_named_in_their_place_only() {
    let mut broken = Vec::new();
    for source in sources() {
        for (library, places) in ONLY_IN {
            let at_home = places.iter().any(|place| source.path == *place || source.path.starts_with(place));
            if !at_home && names_library(&source, library) {
                broken.push(format!("src/{} names {library}", source.path));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn rules_are_pure() {
    let mut broken = Vec::new();
    for source in sources().into_iter().filter(|s| RUNGS[3..5].concat().contains(&s.module.as_str())) {
        if source.path.ends_with("tests.rs") || source.path.contains("/tests/") || source.path == "dht/world.rs" {
            continue;
        }
        // The tests at the end of a file may read files (vectors).
        let code = source.code.split("#[cfg(test)]").next().unwrap_or_default();
        broken.extend(
            NOT_IN_RULES
                .iter()
                .filter(|word| code.contains(**word))
                .map(|word| format!("src/{}: a rule has `{word}`", source.path)),
        );
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn files_hold_one_idea() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut long = Vec::new();
    for dir in ["src", "tests", "benches", "examples"] {
        for path in rust_files(&root.join(dir)) {
            let lines = read(&path).lines().count();
            if lines > LONGEST_FILE {
                long.push(format!("{}: {lines} lines", path.strip_prefix(root).unwrap_or(&path).display()));
            }
        }
    }
    assert!(long.is_empty(), "longer than {LONGEST_FILE} lines:\n{}", long.join("\n"));
}

#[test]
fn the_reader_sees_through_comments_strings_and_braces() {
    let source =
        |code: &str| Source { path: "sip/x.rs".to_owned(), module: "sip".to_owned(), depth: 2, code: strip(code) };
    let used = |code: &str| uses(&source(code)).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(used("use crate::{media::{A, B}, uri, wire::pb};"), "media uri wire");
    assert_eq!(used("let x = crate::calls::f(); // crate::node"), "calls");
    assert_eq!(used("/* crate::web */ let s = \"crate::store\"; let r = r#\"crate::cli\"#;"), "");
    assert_eq!(used("use super::super::overlay::X;"), "overlay");
    assert_eq!(used("use super::media::X; let c = '\"'; crate::uri::Y"), "uri");
    assert!(names_library(&source("use sled::Db;"), "sled"));
    assert!(!names_library(&source("mod assled; fn sled_like() {}"), "sled"));
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    for file in rust_files(&root) {
        let path = file.strip_prefix(&root).expect("inside src").to_string_lossy().replace('\\', "/");
        if path == "lib.rs" || path == "main.rs" {
            continue;
        }
        let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
        sources.push(Source {
            module: parts[0].to_owned(),
            depth: parts.len(),
            code: strip(&read(&file)),
            path: path.clone(),
        });
    }
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Top-level modules that a file names through `crate::` or enough `super::`.
fn uses(source: &Source) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in source.code.match_indices("crate::") {
        let before = source.code[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            used.extend(heads(&source.code[at + "crate::".len()..]));
        }
    }
    let chain = "super::".repeat(source.depth);
    for (at, _) in source.code.match_indices(&chain) {
        let rest = source.code[at + chain.len()..].trim_start_matches("super::");
        used.extend(heads(rest).into_iter().filter(|m| rung(m).is_some()));
    }
    used.retain(|name| name.chars().next().is_some_and(|c| c.is_ascii_lowercase()));
    used
}

/// The first names of a path or of each path in a brace list.
fn heads(rest: &str) -> Vec<String> {
    let name = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(list) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut heads, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(name(&list[start..i]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(name(&list[start..i]));
                start = i + 1;
            }
            _ => {}
        }
    }
    heads.retain(|h| !h.is_empty());
    heads
}

/// `library::`, `use library`, `extern crate library` as a word that is no module of ours.
fn names_library(source: &Source, library: &str) -> bool {
    // `store.rs` has a submodule of the database's name.
    if source.code.contains(&format!("mod {library};")) {
        return false;
    }
    source.code.match_indices(library).any(|(at, _)| {
        let before = source.code[..at].trim_end();
        let previous = source.code[..at].chars().next_back();
        let starts = !previous.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '.');
        let after = &source.code[at + library.len()..];
        starts && (after.starts_with("::") || (before.ends_with("use") && after.starts_with([';', ' '])))
    })
}

/// Blanks comments and the contents of strings and character literals.
fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let chars: Vec<char> = text.chars().collect();
    let mut i = 0;
    while i < chars.len() {
        let next = chars.get(i + 1).copied().unwrap_or('\0');
        match chars[i] {
            '/' if next == '/' => i = skip_line(&chars, i),
            '/' if next == '*' => i = skip_block(&chars, i),
            'r' if (next == '"' || next == '#') && !joined(&out) => i = skip_raw(&chars, i, &mut out),
            '"' => i = skip_string(&chars, i, &mut out),
            '\'' if next == '\\' || chars.get(i + 2) == Some(&'\'') => i = skip_char(&chars, i),
            c => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

fn joined(out: &str) -> bool {
    out.chars().next_back().is_some_and(|c| (c.is_alphanumeric() || c == '_') && c != 'b')
}

fn skip_line(chars: &[char], from: usize) -> usize {
    chars[from..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| from + n)
}

fn skip_block(chars: &[char], from: usize) -> usize {
    let (mut i, mut depth) = (from + 2, 1);
    while i < chars.len() && depth > 0 {
        let pair = (chars[i], chars.get(i + 1).copied().unwrap_or('\0'));
        (i, depth) = match pair {
            ('/', '*') => (i + 2, depth + 1),
            ('*', '/') => (i + 2, depth - 1),
            _ => (i + 1, depth),
        };
    }
    i
}

fn skip_raw(chars: &[char], from: usize, out: &mut String) -> usize {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    let mut i = from + 1 + hashes;
    if chars.get(i) != Some(&'"') {
        // A raw identifier.
        out.push('r');
        return from + 1;
    }
    i += 1;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}

fn skip_string(chars: &[char], from: usize, out: &mut String) -> usize {
    out.push_str("\"\"");
    let mut i = from + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn skip_char(chars: &[char], from: usize) -> usize {
    let mut i = from + 1;
    while i < chars.len() && chars[i] != '\'' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}
