//! The tables of a report made by hand.

use super::super::{comma, fixture};
use super::*;

fn plain(report: &Report) -> String {
    render(report, Look::PLAIN)
}

/// The lines of one table, from its heading to the empty line.
fn table<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    text.lines()
        .skip_while(|line| !line.starts_with(heading))
        .take_while(|line| !line.is_empty())
        .collect()
}

#[test]
fn a_line_has_at_most_100_columns_and_no_end_of_spaces() {
    let mut report = fixture::report();
    for lots in [false, true] {
        for line in plain(&report).lines() {
            assert!(line.chars().count() <= 100, "{}: {line}", line.chars().count());
            assert_eq!(line.trim_end(), line);
        }
        if !lots {
            // A report in which every cell is doubtful for several reasons, and everything failed.
            for row in &mut report.rows {
                for doubt in ["one", "two", "three", "four"] {
                    row.doubts.push(doubt.to_owned());
                }
            }
            report.failed = report.skipped.clone();
        }
    }
}

#[test]
fn sizes_are_columns_and_mechanisms_are_lines() {
    let text = plain(&fixture::report());
    let table = table(&text, "round-trip, one-cpu");
    let words: Vec<_> = table[1].split_whitespace().collect();
    assert_eq!(words[..6], ["64", "4K", "64K", "1M", "p99,", "64"]);
    assert!(table[2].starts_with("pipe "), "{}", table[2]);
    assert_eq!(table.len(), 2 + 10, "ten mechanisms copy");
}

#[test]
fn the_best_of_each_column_is_marked_and_a_single_row_is_not() {
    let mut report = fixture::report();
    let text = plain(&report);
    let lines = table(&text, "round-trip, one-cpu");
    assert!(lines[2].contains("3.01 us*"), "{}", lines[2]);
    assert!(!lines[3].contains('*'), "{}", lines[3]);
    // Of streams the greatest rate is the best.
    let lines = table(&text, "stream, one-cpu");
    assert!(lines[2].contains("21.3 MB/s*"), "{}", lines[2]);
    report.rows.retain(|row| row.mechanism == "pipe");
    let text = plain(&report);
    assert!(!table(&text, "round-trip, one-cpu").concat().contains('*'));
}

#[test]
fn a_terminal_gets_styles_and_no_stars() {
    let look = Look { styled: true, width: 100 };
    let text = render(&fixture::report(), look);
    assert!(text.contains("\x1b[1m"));
    assert!(!text.contains("us*"));
    assert!(!plain(&fixture::report()).contains('\x1b'));
}

#[test]
fn doubts_that_differ_in_figures_are_one_note() {
    let text = plain(&fixture::report());
    let notes = table(&text, "Doubts");
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[1].starts_with("a  few samples: 412 "), "{}", notes[1]);
    assert!(notes[1].ends_with("(here; the figures differ from row to row)"));
    assert!(notes[2].starts_with("b  could not stay on CPU 1"));
    assert!(text.contains("us*ab"));
}

#[test]
fn skipped_rows_with_one_reason_are_one_line() {
    let text = plain(&fixture::report());
    let skipped = table(&text, "Skipped");
    let starts = skipped[1..].iter().filter(|line| !line.starts_with(' ')).count();
    assert_eq!(starts, 4, "{skipped:?}");
    assert!(skipped[1].starts_with("unix-dgram, unix-seqpacket at 1M: a message has at most"));
    assert!(text.contains("udp at 64K, 1M: a message has at most 65507 bytes"));
}

#[test]
fn a_reason_that_hits_some_works_or_placements_says_which() {
    let mut report = fixture::report();
    report.skipped.clear();
    for name in ["pipe", "tcp"] {
        for size in report.settings.sizes.clone() {
            report.skipped.push(Skipped {
                mechanism: name.to_owned(),
                work: Work::Stream,
                size,
                placement: Some(Placement::TwoCpusAwake),
                reason: "one CPU only".to_owned(),
            });
        }
    }
    let text = plain(&report);
    let skipped = table(&text, "Skipped");
    assert_eq!(skipped[1], "pipe, tcp (stream) on two-cpus-awake: one CPU only");
}

#[test]
fn a_failed_row_is_loud_in_the_table_and_below() {
    let mut report = fixture::report();
    report.rows.retain(|row| row.mechanism != "sysv-mq" || row.work != Work::Stream);
    report.failed.push(fixture::failure());
    let text = plain(&report);
    let line = table(&text, "stream, one-cpu").into_iter().find(|l| l.starts_with("sysv-mq"));
    assert!(line.unwrap().contains("FAILED"));
    assert!(text.contains("sysv-mq, stream, 64, one-cpu: the receiver was killed by signal 9"));
}

#[test]
fn a_row_that_was_not_verified_shows_no_number() {
    let mut report = fixture::report();
    report.rows[0].verified = false;
    let text = plain(&report);
    let line = table(&text, "round-trip, one-cpu")[2];
    assert!(line.contains("UNVERIFIED") && !line.contains("3.01 us"), "{line}");
    assert!(text.contains("the receiver did not see every byte"));
}

#[test]
fn many_sizes_go_into_several_tables() {
    let mut report = fixture::report();
    report.skipped.clear();
    report.rows.retain(|row| row.mechanism == "pipe" && row.work == Work::RoundTrip);
    let template = report.rows[0].clone();
    report.rows.clear();
    for shift in 0..10 {
        report.rows.push(Row { size: 1 << shift, ..template.clone() });
    }
    let text = plain(&report);
    assert_eq!(text.matches("round-trip, one-cpu").count(), 3, "{text}");
}

#[test]
fn an_empty_report_is_said_to_be_empty() {
    let mut report = fixture::report();
    report.rows.clear();
    let text = plain(&report);
    assert!(text.contains("Nothing was measured."));
    assert!(!text.contains("In words"));
}

#[test]
fn the_words_are_computed_from_the_rows() {
    let text = words::sentences(&fixture::report()).join("\n");
    for part in [
        "For 64 bytes, processes that sleep while they wait are fastest through posix-shm (2.44 us",
        "through posix-shm (238 ns there and back",
        "59.3 us on two CPUs that may sleep and 4.02 us on one, 15 times as long",
        "100 MiB go through memfd at 9.80 GB/s, 5.1 times the 1.91 GB/s of a pipe",
        "handing over a memfd that is filled already takes 118 us",
        "rows, the library takes as long as its floor (median)",
    ] {
        assert!(text.contains(part), "{part}\nis not in\n{text}");
    }
}

#[test]
fn the_words_name_what_is_certain_to_cost() {
    let mut report = fixture::report();
    report.rows[0].floor_ratio = Some(1.09);
    report.rows[0].floor_ratio_ci = Some([1.07, 1.12]);
    let text = words::sentences(&report).join("\n");
    assert!(text.contains("the most that is certain is 7.0 % (pipe, round-trip, 64)"), "{text}");
}

#[test]
fn csv_has_one_line_per_row_and_a_stable_header() {
    let mut report = fixture::report();
    report.failed.push(fixture::failure());
    let text = comma::render(&report).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header: Vec<_> = reader.headers().unwrap().iter().map(str::to_owned).collect();
    assert_eq!(header, comma::HEADER);
    let records: Vec<_> = reader.records().map(Result::unwrap).collect();
    let all = report.rows.len() + report.skipped.len() + report.failed.len();
    assert_eq!(records.len(), all);
    assert_eq!(&records[0][1], "pipe");
    assert_eq!(&records[0][8], report.rows[0].ns.p50.to_string());
    assert_eq!(&records[all - 1][0], "failed");
    assert_eq!(&records[all - 1][30], "the receiver was killed by signal 9");
}

#[test]
fn json_is_read_back_as_it_was() {
    let report = fixture::report();
    let text = serde_json::to_string(&report).unwrap();
    let again: Report = serde_json::from_str(&text).unwrap();
    assert_eq!(again.rows.len(), report.rows.len());
    assert_eq!(again.skipped, report.skipped);
    assert!((again.rows[5].ns.p99 / report.rows[5].ns.p99 - 1.0).abs() < 1e-12);
    assert!(text.starts_with("{\"schema\":1,"));
}
