//! Bad usage: exit status 2 and one line that names the cause and what would be right.

use sinew_testkit::{Role, Skip, Test, roles, tests};

use crate::program::run;

pub(crate) const TESTS: &[Test] = tests![
    an_unknown_mechanism_names_the_nearest,
    a_mechanism_without_a_row_says_so,
    an_unknown_work_or_placement_names_the_valid_ones,
    a_bad_size_says_what_a_size_is,
    a_bad_duration_says_what_a_duration_is,
    an_unknown_option_or_command_names_the_nearest,
    an_option_without_its_value_says_so,
    an_option_given_twice_says_so,
    an_argument_too_many_is_refused,
    an_unknown_format_or_shell_names_the_valid_ones,
    an_input_that_is_not_there_is_bad_usage,
    a_name_that_is_not_text_is_refused_in_one_line,
    control_characters_in_a_name_do_not_reach_the_terminal,
    no_command_at_all_shows_what_there_is,
];
pub(crate) const ROLES: &[Role] = roles![];

/// Asserts that the one line holds all these words.
#[track_caller]
fn refused(arguments: &[&str], words: &[&str]) {
    let line = run(arguments).one_line(2);
    for word in words {
        assert!(line.contains(word), "{arguments:?}: {line:?} without {word:?}");
    }
    assert!(line.len() < 300, "{line}");
}

fn an_unknown_mechanism_names_the_nearest() -> Result<(), Skip> {
    refused(&["bench", "pip"], &["\"pip\"", "did you mean pipe?"]);
    refused(&["bench", "pipe,unix_stream"], &["\"unix_stream\"", "did you mean unix-stream?"]);
    refused(&["bench", "zzz"], &["\"zzz\"", "`sinew mechanisms`"]);
    refused(&["bench", ""], &["is empty"]);
    refused(&["mechanisms", "posix_mq"], &["\"posix_mq\"", "did you mean posix-mq?"]);
    refused(&["mechanisms", "zzz"], &["\"zzz\"", "`sinew mechanisms`"]);
    Ok(())
}

fn a_mechanism_without_a_row_says_so() -> Result<(), Skip> {
    refused(&["bench", "netlink"], &["netlink", "has no row", "`sinew mechanisms`"]);
    Ok(())
}

fn an_unknown_work_or_placement_names_the_valid_ones() -> Result<(), Skip> {
    refused(&["bench", "--works", "steam"], &["--works", "did you mean stream?"]);
    refused(&["bench", "--works", "x"], &["--works", "round-trip, stream, bulk"]);
    refused(&["bench", "--works", "stream,"], &["--works needs a value", "round-trip"]);
    refused(&["bench", "--placement", "x"], &["--placement", "one-cpu, two-cpus, two-cpus-awake"]);
    refused(&["bench", "--placement", "two-cpu"], &["did you mean two-cpus?"]);
    Ok(())
}

fn a_bad_size_says_what_a_size_is() -> Result<(), Skip> {
    refused(&["bench", "--sizes", "0"], &["--sizes", "0 bytes"]);
    refused(&["bench", "--sizes", "64,x"], &["--sizes", "\"x\"", "4K"]);
    refused(&["bench", "--sizes", ""], &["--sizes", "\"\""]);
    refused(&["bench", "--sizes=-1"], &["--sizes", "\"-1\""]);
    refused(&["bench", "--sizes", "4KB"], &["--sizes", "\"4KB\""]);
    refused(&["bench", "--sizes", "99999999999999999999"], &["too much", "1G"]);
    refused(&["bench", "--sizes", "18014398509481984K"], &["too much", "1G"]);
    Ok(())
}

fn a_bad_duration_says_what_a_duration_is() -> Result<(), Skip> {
    refused(&["bench", "--duration", "5"], &["--duration", "\"5\"", "200ms"]);
    refused(&["bench", "--duration", "0s"], &["--duration", "1us"]);
    refused(&["bench", "--duration", "2h"], &["--duration", "\"2h\""]);
    refused(&["bench", "--duration", "9999999999s"], &["too long", "3600s"]);
    Ok(())
}

fn an_unknown_option_or_command_names_the_nearest() -> Result<(), Skip> {
    refused(&["bench", "--forma", "json"], &["--forma", "did you mean --format?"]);
    refused(&["bench", "--xyzzy"], &["--xyzzy", "--help"]);
    refused(&["bensh"], &["\"bensh\"", "did you mean bench?"]);
    refused(&["xyzzy"], &["\"xyzzy\"", "bench, mechanisms, completions, man"]);
    Ok(())
}

fn an_option_without_its_value_says_so() -> Result<(), Skip> {
    refused(&["bench", "--sizes"], &["--sizes needs a value"]);
    refused(&["bench", "--format"], &["--format needs a value", "table, json, csv"]);
    refused(&["bench", "-o"], &["--output needs a value"]);
    refused(&["completions"], &["<SHELL>"]);
    Ok(())
}

fn an_option_given_twice_says_so() -> Result<(), Skip> {
    refused(&["bench", "--quick", "--quick"], &["--quick is given twice"]);
    refused(&["bench", "--format", "csv", "--format", "json"], &["--format is given twice"]);
    Ok(())
}

fn an_argument_too_many_is_refused() -> Result<(), Skip> {
    refused(&["mechanisms", "pipe", "fifo"], &["\"fifo\""]);
    refused(&["man", "bench"], &["\"bench\""]);
    Ok(())
}

fn an_unknown_format_or_shell_names_the_valid_ones() -> Result<(), Skip> {
    refused(&["bench", "--format", "xml"], &["--format", "\"xml\"", "table, json, csv"]);
    refused(&["completions", "tcsh"], &["\"tcsh\"", "bash", "zsh", "fish"]);
    Ok(())
}

fn an_input_that_is_not_there_is_bad_usage() -> Result<(), Skip> {
    let path = sinew_testkit::scratch().join("nothing here");
    let path = path.to_str().unwrap();
    refused(&["bench", "pipe", "--input", path], &["nothing here", "No such file"]);
    refused(&["bench", "pipe", "--input", "/"], &["--input", "\"/\"", "not a regular file"]);
    refused(&["bench", "pipe", "--input", "/dev/zero"], &["not a regular file"]);
    // Opening a FIFO would wait for a writer.
    let fifo = sinew_testkit::scratch().join("fifo");
    let file_type = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, file_type, rustix::fs::Mode::RUSR, 0).unwrap();
    refused(&["bench", "pipe", "--input", fifo.to_str().unwrap()], &["not a regular file"]);
    std::fs::remove_file(fifo).unwrap();
    Ok(())
}

fn a_name_that_is_not_text_is_refused_in_one_line() -> Result<(), Skip> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"pi\xFFpe");
    let line = run(&[std::ffi::OsStr::new("bench"), name]).one_line(2);
    assert!(line.to_lowercase().contains("utf-8"), "{line}");
    Ok(())
}

fn control_characters_in_a_name_do_not_reach_the_terminal() -> Result<(), Skip> {
    for bad in ["pi\x1b[31mpe", "pipe\nsinew: all is well", "pipe\r\x07"] {
        let line = run(&["bench", bad]).one_line(2);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let line = run(&["bench", "--sizes", bad]).one_line(2);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        let line = run(&[bad]).one_line(2);
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    Ok(())
}

fn no_command_at_all_shows_what_there_is() -> Result<(), Skip> {
    let ran = run::<&str>(&[]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    for command in ["bench", "mechanisms", "completions", "man"] {
        assert!(ran.err.contains(&format!("\n  {command} ")), "{}", ran.err);
    }
    Ok(())
}
