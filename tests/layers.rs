//! The map in src/lib.rs holds: rooms use rooms of lower layers, or of their own layer without a
//! circle; the three leaves and the machine know no Tokio; every file says what it owns.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file: its path below src/, and its text.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![src()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(src()).unwrap().to_str().unwrap().to_owned();
                found.push((below, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(found.len() > 50, "the source is not where it is looked for");
    found
}

/// Room to layer, as the map draws it.
fn map() -> BTreeMap<String, u32> {
    let lib = fs::read_to_string(src().join("lib.rs")).unwrap();
    let rooms: BTreeSet<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut layers = BTreeMap::new();
    for line in lib.lines() {
        let Some(line) = line.strip_prefix("//! ") else { continue };
        let mut words = line.split_whitespace();
        let Some(layer) = words.next().and_then(|word| word.parse().ok()) else { continue };
        for room in words.take_while(|word| rooms.contains(word)) {
            assert_eq!(layers.insert(room.to_owned(), layer), None, "{room} is drawn twice");
        }
    }
    let drawn: BTreeSet<&str> = layers.keys().map(String::as_str).collect();
    assert_eq!(drawn, rooms, "every room is drawn, and nothing else");
    layers
}

/// The code without its comments.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| match line.find("//") {
        Some(at) => &line[..at],
        None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The first segments of all paths that begin with `crate::`, also of those in braces.
fn used(code: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = BTreeSet::new();
    for (at, begin) in code.match_indices("crate::") {
        let rest = &code[at + begin.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let mut depth = 1;
        let mut first = true;
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => first = true,
                c if first && c.is_alphabetic() => {
                    found.insert(word(&group[at..]));
                    first = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

#[test]
fn rooms_use_what_is_below_them() {
    let layers = map();
    let mut level: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut arrows = 0;
    for (path, text) in files() {
        let Some((room, _)) = path.split_once('/') else { continue };
        let layer = layers[room];
        for other in used(&code(&text)) {
            let below = layers.get(&other).unwrap_or_else(|| panic!("{path}: crate::{other}?"));
            assert!(*below <= layer, "src/{path}: {room} is below {other}, and must not use it");
            if *below == layer && other != room {
                level.entry(room.to_owned()).or_default().insert(other);
            } else {
                arrows += 1;
            }
        }
    }
    assert!(arrows > 100, "{arrows} uses: the source is not read as it should be");
    // Whoever uses nobody that is left on the level leaves; a circle never does.
    while let Some(free) = level
        .iter()
        .find(|(_, uses)| uses.iter().all(|other| !level.contains_key(other)))
        .map(|(room, _)| room.clone())
    {
        level.remove(&free);
    }
    assert!(level.is_empty(), "rooms of one layer use each other in a circle: {level:?}");
}

/// The files that a `mod.rs` takes in for tests alone.
fn test_files((path, text): &(String, String)) -> Vec<String> {
    let folder = path.strip_suffix("mod.rs").unwrap_or_default();
    text.split("#[cfg(test)]\nmod ")
        .skip(1)
        .filter_map(|rest| rest.lines().next()?.strip_suffix(';'))
        .map(|name| format!("{folder}{name}.rs"))
        .collect()
}

#[test]
fn what_decides_knows_no_tokio_and_no_clock() {
    const PURE: &[&str] = &[
        "protocol/",
        "sql/",
        "config/",
        "cluster/judge.rs",
        "cluster/judge/election.rs",
        "cluster/judge/node.rs",
        "cluster/judge/replicas.rs",
        "routing/decide.rs",
        "routing/decision.rs",
        "routing/rules.rs",
        "session/machine.rs",
        "session/phase.rs",
        "session/step.rs",
        "session/asks.rs",
        "session/fields.rs",
        "session/compose.rs",
        "session/bind.rs",
        "session/settings.rs",
        "session/statements.rs",
        "session/pins.rs",
        "session/options.rs",
    ];
    let files = files();
    let only_tests: BTreeSet<String> = files.iter().flat_map(test_files).collect();
    let mut seen = BTreeSet::new();
    for (path, text) in files {
        let Some(pure) = PURE.iter().find(|pure| path.starts_with(**pure)) else { continue };
        if only_tests.contains(&path) {
            continue;
        }
        seen.insert(*pure);
        let code = code(&text);
        // Its tests may measure.
        let own = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for word in ["tokio::", "Instant::now", "SystemTime::now"] {
            assert!(!own.contains(word), "src/{path} says {word}");
        }
    }
    assert_eq!(seen.len(), PURE.len(), "only {seen:?} were found");
}

#[test]
fn every_file_says_what_it_owns() {
    for (path, text) in files() {
        assert!(text.starts_with("//! "), "src/{path} does not open with //!");
    }
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let text =
        "use crate::{config::{self, file}, proxy};\nuse crate::sql;\nlet x = crate::net::a();";
    assert_eq!(used(text), ["config", "net", "proxy", "sql"].map(str::to_owned).into());
    assert_eq!(used(&code("// crate::cli\nx // crate::cli")), BTreeSet::new());
}
