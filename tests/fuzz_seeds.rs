//! What the fuzz targets hold of any input holds of their committed seeds, and of every part and pair
//! of them; the words by which `classify` knows a command are PostgreSQL's.

use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let files =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = files.map(|file| file.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn every_check_holds_of_its_seeds() {
    for (name, check) in fuzz::CHECKS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for (path, seed) in seeds {
            let held = std::panic::catch_unwind(|| check(&seed));
            assert!(held.is_ok(), "{name} does not hold of {}", path.display());
        }
    }
}

#[test]
fn every_target_has_a_check_and_is_built() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let mut targets: Vec<String> = fs::read_dir(folder.join("fuzz_targets"))
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    targets.sort();
    let mut checks = fuzz::CHECKS.map(|(name, _)| name);
    checks.sort_unstable();
    assert_eq!(targets, checks);
    for name in checks {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}
