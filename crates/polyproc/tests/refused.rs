//! What must not cross to another process does not compile, and the compiler says why in words that help.
//!
//! Each file in `refused/` is a program that is refused; each of its lines that begin with `//~` is a part of what the compiler
//! says. This test builds nothing but them, against the library that it was itself built with.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of this test's own file: the library and what it needs lie beside it.
fn dependencies() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// The library as it was built last.
fn library(dependencies: &Path) -> PathBuf {
    let files = std::fs::read_dir(dependencies).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    files
        .filter(|path| name(path).starts_with("libpolyproc-") && name(path).ends_with(".rlib"))
        .max_by_key(|path| path.metadata().unwrap().modified().unwrap())
        .unwrap()
}

/// What the compiler says of a program; `None` if it has nothing against it.
fn refusal(program: &Path, out: &Path) -> Option<String> {
    let dependencies = dependencies();
    let output = Command::new(option_env!("RUSTC").unwrap_or("rustc"))
        .args(["--edition=2024", "--crate-type=bin", "--emit=obj", "--cap-lints=allow", "--error-format=human", "-o"])
        .arg(out)
        .arg("--extern")
        .arg(format!("polyproc={}", library(&dependencies).display()))
        .arg("-L")
        .arg(format!("dependency={}", dependencies.display()))
        .arg(program)
        .output()
        .unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn each_is_refused_with_a_message_that_helps() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refused");
    let out = dependencies().join(format!("refused-{}.o", std::process::id()));
    let mut programs: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    programs.sort();
    let mut wrong = Vec::new();
    for program in &programs {
        let name = program.file_stem().unwrap().to_string_lossy();
        let text = std::fs::read_to_string(program).unwrap();
        let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("//~ ")).collect();
        assert!(!expected.is_empty(), "{name} does not say what the compiler is to say");
        match refusal(program, &out) {
            None => wrong.push(format!("{name} compiles")),
            Some(said) => {
                let missing: Vec<_> = expected.iter().filter(|part| !said.contains(**part)).collect();
                if !missing.is_empty() {
                    wrong.push(format!("{name}: the compiler does not say {missing:?}, but:\n{said}"));
                }
            }
        }
    }
    let _ = std::fs::remove_file(out);
    assert!(programs.len() > 10 && wrong.is_empty(), "{}", wrong.join("\n\n"));
}
