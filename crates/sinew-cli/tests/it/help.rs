//! Help, completions and manual pages, which come from one definition.

use std::io::Write;
use std::process::{Command, Stdio};

use sinew_testkit::{Role, Skip, Test, roles, scratch, skip, tests};

use crate::program::{finish, run};

pub(crate) const TESTS: &[Test] = tests![
    every_help_fits_100_columns_and_says_the_exit_statuses,
    the_help_of_bench_teaches_what_the_numbers_mean,
    the_short_help_is_one_page,
    the_version_is_that_of_the_package,
    completions_of_bash_parse_and_complete,
    completions_of_zsh_and_fish_parse,
    the_manual_pages_render_without_a_warning,
    the_manual_pages_hold_every_option,
    manual_pages_go_into_a_new_folder,
    a_folder_that_cannot_be_made_is_named,
];
pub(crate) const ROLES: &[Role] = roles![];

const COMMANDS: [&str; 4] = ["bench", "mechanisms", "completions", "man"];

fn every_help_fits_100_columns_and_says_the_exit_statuses() -> Result<(), Skip> {
    let mut pages = vec![run(&["--help"]).good(), run(&["help"]).good()];
    for command in COMMANDS {
        pages.push(run(&[command, "--help"]).good());
        pages.push(run(&["help", command]).good());
    }
    for page in &pages {
        assert!(page.contains("Exit status:\n  0  "), "{page}");
        assert!(page.contains("Examples:\n  sinew "), "{page}");
        for line in page.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        assert!(!page.contains('\x1b'), "no colour in a pipe");
    }
    Ok(())
}

fn the_help_of_bench_teaches_what_the_numbers_mean() -> Result<(), Skip> {
    let page = run(&["bench", "--help"]).good();
    for words in [
        "What the numbers mean:",
        "median (p50)",
        "over bare  time through the library divided by the time of the same work in bare",
        "one-cpu         both on one CPU",
        "[default: 64,4K,64K,1M; with --quick 64,64K]",
        "sinew bench --quick",
        "What it leaves behind:",
        "NO_COLOR",
    ] {
        assert!(page.contains(words), "{words:?} is not in\n{page}");
    }
    for option in [
        "--sizes",
        "--works",
        "--placement",
        "--duration",
        "--input",
        "--quick",
        "--format",
        "-o, --output",
        "--list",
    ] {
        assert!(page.contains(option), "{option}");
    }
    Ok(())
}

fn the_short_help_is_one_page() -> Result<(), Skip> {
    for command in COMMANDS {
        let page = run(&[command, "-h"]).good();
        assert!(page.lines().count() <= 60, "{page}");
    }
    Ok(())
}

fn the_version_is_that_of_the_package() -> Result<(), Skip> {
    let version = format!("sinew {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]).good(), version);
    assert_eq!(run(&["-V"]).good(), version);
    Ok(())
}

/// Gives a program something to read and asserts that it is content.
#[track_caller]
fn feed(program: &str, arguments: &[&str], text: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        // A folder in PATH that this user may not look into is as good as no program.
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
            ) =>
        {
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && err.is_empty(), "{program}: {err}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn completions_of_bash_parse_and_complete() -> Result<(), Skip> {
    let script = run(&["completions", "bash"]).good();
    feed("bash", &["-n"], &script).unwrap();
    // What bash offers after `sinew bench --format `.
    let ask = format!(
        "{script}\nCOMP_WORDS=(sinew bench --format ''); COMP_CWORD=3; \
         _sinew sinew '' --format; echo \"${{COMPREPLY[*]}}\"\n"
    );
    assert_eq!(feed("bash", &["--norc"], &ask).unwrap().trim(), "table json csv");
    Ok(())
}

fn completions_of_zsh_and_fish_parse() -> Result<(), Skip> {
    for shell in ["elvish", "powershell"] {
        assert!(run(&["completions", shell]).good().contains("--works"));
    }
    for shell in ["zsh", "fish"] {
        let script = run(&["completions", shell]).good();
        assert!(script.contains("unix-seqpacket"), "the rows can be completed");
        if feed(shell, &["-n"], &script).is_none() {
            return skip(format!("no {shell}"));
        }
        if shell == "fish" {
            // What fish offers.
            let ask = format!("{script}\ncomplete -C'sinew bench unix-s'\n");
            let offered = feed(shell, &["--no-config"], &ask).unwrap();
            let names: Vec<_> = offered.lines().filter_map(|l| l.split('\t').next()).collect();
            assert_eq!(names, ["unix-seqpacket", "unix-stream"], "{offered}");
        }
    }
    Ok(())
}

/// All pages in a folder, and the folder.
fn pages() -> std::path::PathBuf {
    let folder = scratch().join("man");
    run(&["man", "-o", folder.to_str().unwrap()]).good();
    folder
}

fn the_manual_pages_render_without_a_warning() -> Result<(), Skip> {
    let folder = pages();
    let mut rendered = Vec::new();
    for name in ["sinew", "sinew-bench", "sinew-mechanisms", "sinew-completions", "sinew-man"] {
        let path = folder.join(format!("{name}.1"));
        let mut command = Command::new("man");
        command.args(["--warnings", "-E", "UTF-8", "-l"]).arg(&path).env("MANWIDTH", "100");
        command.stdin(Stdio::null());
        match command.output() {
            Err(_) => break,
            Ok(output) => {
                let err = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success() && err.is_empty(), "{name}: {err}");
                rendered.push(String::from_utf8_lossy(&output.stdout).into_owned());
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
    // A minimal system has a `man` that only says where to get one.
    if rendered.is_empty() || !rendered[0].contains("NAME") {
        return skip("no man that renders");
    }
    assert!(rendered[1].contains("WHAT THE NUMBERS MEAN"), "{}", rendered[1]);
    assert!(rendered[1].contains("round\u{2010}trip") || rendered[1].contains("round-trip"));
    Ok(())
}

fn the_manual_pages_hold_every_option() -> Result<(), Skip> {
    let folder = pages();
    let page = std::fs::read_to_string(folder.join("sinew-bench.1")).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    for option in ["sizes", "works", "placement", "duration", "input", "quick", "format", "output"]
    {
        assert!(page.contains(&format!("\\-\\-{option}")), "{option}\n{page}");
    }
    for heading in
        [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", ".SH EXAMPLES", ".SH \"EXIT STATUS\""]
    {
        let plain = heading.replace('"', "");
        assert!(page.contains(heading) || page.contains(&plain), "{heading}\n{page}");
    }
    for line in page.lines() {
        // A line that begins with a dot is a request, and a request has two letters.
        if let Some(request) = line.strip_prefix('.') {
            let word = request.split_whitespace().next().unwrap();
            assert!(word.len() <= 2 || word == "ie", "{line}");
        }
    }
    let one = run(&["man"]).good();
    assert!(one.contains(".TH sinew 1"), "{one}");
    Ok(())
}

fn manual_pages_go_into_a_new_folder() -> Result<(), Skip> {
    let folder = scratch().join("a").join("b");
    assert_eq!(run(&["man", "--output", folder.to_str().unwrap()]).good(), "");
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected =
        ["sinew-bench.1", "sinew-completions.1", "sinew-man.1", "sinew-mechanisms.1", "sinew.1"];
    assert_eq!(names, expected);
    std::fs::remove_dir_all(scratch().join("a")).unwrap();
    Ok(())
}

fn a_folder_that_cannot_be_made_is_named() -> Result<(), Skip> {
    let line = run(&["man", "-o", "/proc/nowhere"]).one_line(2);
    assert!(line.contains("\"/proc/nowhere\""), "{line}");
    let file = scratch().join("file");
    std::fs::write(&file, "").unwrap();
    let line = finish(crate::program::command(&["man", "-o"]).arg(&file)).one_line(2);
    std::fs::remove_file(file).unwrap();
    assert!(line.contains("cannot write to"), "{line}");
    Ok(())
}
