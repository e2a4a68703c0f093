//! `sinew mechanisms`: the table, the story of one, and JSON.

use std::process::Stdio;

use serde_json::Value;
use sinew::Mechanism;
use sinew::limits::Limit;
use sinew_testkit::{Role, Skip, Test, roles, skip, tests};

use crate::program::{command, finish, run};

pub(crate) const TESTS: &[Test] = tests![
    the_table_has_a_line_for_each_mechanism_and_limit,
    the_table_fits_100_columns,
    every_mechanism_has_a_whole_story,
    json_has_schema_1_and_every_mechanism_and_limit,
    json_of_one_has_its_own_limits,
    the_rows_of_the_bench_are_those_of_the_table,
    a_changed_limit_is_shown,
    what_cannot_be_read_is_said_to_be_unreadable,
];
pub(crate) const ROLES: &[Role] = roles![];

fn the_table_has_a_line_for_each_mechanism_and_limit() -> Result<(), Skip> {
    let table = run(&["mechanisms"]).good();
    for mechanism in Mechanism::ALL {
        let lines = table.lines().filter(|l| l.split(' ').next() == Some(mechanism.name()));
        assert_eq!(lines.count(), 1, "{mechanism}");
    }
    for limit in Limit::ALL {
        assert!(table.lines().any(|l| l.starts_with(&format!("{limit}  "))), "{limit}\n{table}");
    }
    Ok(())
}

fn the_table_fits_100_columns() -> Result<(), Skip> {
    for line in run(&["mechanisms"]).good().lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    Ok(())
}

fn every_mechanism_has_a_whole_story() -> Result<(), Skip> {
    for mechanism in Mechanism::ALL {
        let story = run(&["mechanisms", mechanism.name()]).good();
        // Folded over lines as it is.
        let words: Vec<&str> = story.split_whitespace().collect();
        let words = words.join(" ");
        let facts = mechanism.facts();
        for text in [facts.about, facts.atomicity, facts.after_crash, facts.accepted.text()] {
            assert!(words.contains(text), "{mechanism}: {text:?} is not in\n{story}");
        }
        for limit in facts.limits {
            assert!(story.contains(&format!("\n  {limit}  ")), "{mechanism}: {limit}");
            assert!(words.contains(limit.raise()), "{mechanism}: {limit}");
        }
        for line in story.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
    Ok(())
}

fn json(arguments: &[&str]) -> Value {
    let text = run(arguments).good();
    assert_eq!(text.lines().count(), 1, "one line in a pipe");
    serde_json::from_str(&text).unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

fn json_has_schema_1_and_every_mechanism_and_limit() -> Result<(), Skip> {
    let all = json(&["mechanisms", "--json"]);
    assert_eq!(all["schema"], 1);
    assert_eq!(names(&all["mechanisms"]), Mechanism::ALL.map(Mechanism::name));
    assert_eq!(names(&all["limits"]), Limit::ALL.map(Limit::name));
    for mechanism in all["mechanisms"].as_array().unwrap() {
        let keys: Vec<_> = mechanism.as_object().unwrap().keys().map(String::as_str).collect();
        // Stable: a change here is a change of the contract.
        assert_eq!(
            keys,
            [
                "about",
                "accepted",
                "after_crash",
                "atomicity",
                "boundaries",
                "carries",
                "credentials",
                "direction",
                "largest",
                "lifetime",
                "limits",
                "name",
                "naming",
                "passes_fds",
                "pollable",
                "priority",
                "roles",
                "sources",
            ]
        );
    }
    Ok(())
}

fn json_of_one_has_its_own_limits() -> Result<(), Skip> {
    let one = json(&["mechanisms", "posix-mq", "--json"]);
    assert_eq!(names(&one["mechanisms"]), ["posix-mq"]);
    assert_eq!(one["mechanisms"][0]["priority"], true);
    let expected: Vec<_> = Mechanism::PosixMq.facts().limits.iter().map(|l| l.name()).collect();
    assert_eq!(names(&one["limits"]), expected);
    if let Some(value) = Limit::MqMsgsizeMax.value() {
        assert_eq!(one["limits"][1]["value"], value);
        assert_eq!(one["mechanisms"][0]["largest"]["bytes"], value);
    }
    Ok(())
}

fn the_rows_of_the_bench_are_those_of_the_table() -> Result<(), Skip> {
    let rows: Vec<_> = Mechanism::ALL
        .into_iter()
        .filter(|m| m.facts().roles.bench_row)
        .map(Mechanism::name)
        .collect();
    let list = run(&["bench", "--list"]).good();
    let listed: Vec<_> = list
        .lines()
        .take_while(|line| !line.is_empty())
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(listed, rows);
    Ok(())
}

fn a_changed_limit_is_shown() -> Result<(), Skip> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::Nofile, Rlimit { current: Some(77), maximum: Some(77) }).unwrap();
    let line = "RLIMIT_NOFILE  77";
    let story = run(&["mechanisms", "memfd"]).good();
    assert!(story.contains(line), "{story}");
    Ok(())
}

fn what_cannot_be_read_is_said_to_be_unreadable() -> Result<(), Skip> {
    if !sinew_testkit::census::can_be_private() {
        return skip("needs a mount namespace");
    }
    // This test process has its own mount namespace already.
    rustix::mount::mount_bind("/dev/null", Limit::PipeMaxSize.location()).unwrap();
    let story = finish(command(&["mechanisms", "pipe"]).stdin(Stdio::null())).good();
    assert!(story.contains("fs.pipe-max-size  unreadable"), "{story}");
    assert!(story.contains("masked"), "{story}");
    let table = run(&["mechanisms"]).good();
    assert!(table.contains("unreadable"), "{table}");
    let pipe = json(&["mechanisms", "pipe", "--json"]);
    assert_eq!(pipe["limits"][0]["name"], "fs.pipe-max-size");
    assert_eq!(pipe["limits"][0].get("value"), None);
    assert!(pipe["limits"][0]["unreadable"].as_str().unwrap().contains("masked"));
    Ok(())
}
