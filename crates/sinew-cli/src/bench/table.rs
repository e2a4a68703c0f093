//! A report as tables to be read.

mod absent;

use std::fmt::Write as _;

use sinew::Mechanism;
use sinew_bench::report::{Row, Skipped, Usage, WaitKind};
use sinew_bench::settings::Kind;
use sinew_bench::{Placement, Report, Work};

use super::words;
use crate::output::{Look, wrap};
use crate::quantity::{frequency, memory, number, rate, time};
use crate::size::Size;
use absent::{failed, skipped};

/// Sizes side by side in one table; more of them go into another one below.
const SIDE_BY_SIDE: usize = 4;

/// One cell: what it says, how good it is, and which notes speak against it.
#[derive(Default)]
struct Cell {
    text: String,
    /// The less the better; none where it does not compete.
    cost: Option<f64>,
    notes: Vec<usize>,
    wrong: bool,
}

/// One table: a heading, the names of its columns, and a line for each mechanism.
struct Table {
    heading: String,
    about: String,
    columns: Vec<String>,
    lines: Vec<(String, Vec<Cell>)>,
}

/// The doubts of a report, each once, lettered in the order in which a reader meets them.
#[derive(Default)]
struct Notes(Vec<(String, String, bool)>);

/// Rows that are shown together.
#[derive(Clone, Copy, PartialEq)]
struct Section {
    kind: Kind,
    work: Work,
    placement: Placement,
    wait: Option<WaitKind>,
}

impl Section {
    /// Whether a row that was not measured would stand here.
    fn is_of(self, row: &Skipped) -> bool {
        kind(&row.mechanism) == self.kind
            && row.work == self.work
            && row.placement.is_none_or(|placement| placement == self.placement)
    }
}

pub(crate) fn render(report: &Report, look: Look) -> String {
    let mut out = header(report, look);
    let mut notes = Notes::default();
    for kind in Kind::ALL {
        let sections = sections(report, kind);
        if sections.is_empty() {
            continue;
        }
        let title = match kind {
            Kind::Copy => "COPY  bytes cross the kernel",
            Kind::Share => "SHARE  pages in two processes",
            Kind::Sync => "SYNC  who goes, and who waits",
            Kind::Event => "EVENT  something happened",
            Kind::Process => "PROCESS  another process",
            Kind::Channel => "CHANNEL  messages in shared memory",
        };
        let _ = write!(out, "\n{}\n", look.bold(title));
        for section in sections {
            for table in tables(report, section, &mut notes, look) {
                out.push('\n');
                draw(&table, look, &mut out);
            }
        }
    }
    let mut marks = String::new();
    if !report.rows.is_empty() {
        if out.contains('*') {
            marks.push_str("* the best of its column. ");
        }
        marks.push_str("`sinew bench --help` explains the columns.");
        let _ = write!(out, "\n{}\n", look.faint(&marks));
    }
    notes.render(look, &mut out);
    skipped(report, look, &mut out);
    failed(report, look, &mut out);
    let sentences = words::sentences(report);
    if !sentences.is_empty() {
        let _ = write!(out, "\n{}\n", look.bold("In words"));
    }
    for sentence in sentences {
        out.push_str(&wrap(&sentence, look.width.min(100), "- ", "  "));
    }
    out
}

fn header(report: &Report, look: Look) -> String {
    let host = &report.host;
    let cpus = if host.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", host.cpus) };
    let virtual_machine = match host.hypervisor.as_deref() {
        None => String::new(),
        Some("unknown") => ", a virtual machine".to_owned(),
        Some(name) => format!(", a virtual machine ({name})"),
    };
    let machine = format!(
        "sinew {} on Linux {}, {}, {}, {cpus}, {}{virtual_machine}",
        host.sinew,
        host.kernel,
        host.arch,
        host.cpu,
        memory(host.memory_bytes),
    );
    let mut out = wrap(&machine, look.width, "", "  ");
    let used = &report.settings;
    let mut method = format!(
        "{} a row, {} interleaved round{}; every byte of every row was checked in a pass of its own.",
        time(used.duration_ms as f64 * 1e6),
        used.rounds,
        if used.rounds == 1 { "" } else { "s" },
    );
    if report.rows.is_empty() {
        method = "Nothing was measured.".to_owned();
    }
    if cfg!(debug_assertions) && !cfg!(test) {
        method.push_str(" DEBUG BUILD: the code that is measured is not optimised.");
    }
    if let Some(input) = &used.input {
        let _ = write!(
            method,
            " Payload: {} ({} bytes, SHA-256 {}).",
            input.path, input.bytes, input.sha256
        );
    }
    out.push_str(&wrap(&method, look.width, "", "  "));
    out
}

/// What a row is for. A name from the future copies.
fn kind(name: &str) -> Kind {
    name.parse::<Mechanism>().map_or(Kind::Copy, Kind::of)
}

fn sections(report: &Report, wanted: Kind) -> Vec<Section> {
    let mut all: Vec<Section> = Vec::new();
    for row in report.rows.iter().filter(|row| kind(&row.mechanism) == wanted) {
        let section =
            Section { kind: wanted, work: row.work, placement: row.placement, wait: row.wait };
        if !all.contains(&section) {
            all.push(section);
        }
    }
    all.sort_by_key(|s| (s.work, s.placement, s.wait == Some(WaitKind::Blocking)));
    all
}

fn tables(report: &Report, section: Section, notes: &mut Notes, look: Look) -> Vec<Table> {
    let rows: Vec<&Row> = report
        .rows
        .iter()
        .filter(|row| {
            kind(&row.mechanism) == section.kind
                && row.work == section.work
                && row.placement == section.placement
                && row.wait == section.wait
        })
        .collect();
    if section.work == Work::Bulk {
        return sizes(rows.iter().copied())
            .into_iter()
            .map(|size| {
                let full = bulk(report, section, size, &rows, true, notes);
                if full.width(look) <= look.width {
                    return full;
                }
                bulk(report, section, size, &rows, false, notes)
            })
            .collect();
    }
    if rows.iter().all(|row| row.size == 0) {
        return vec![by_time(report, section, &rows, notes)];
    }
    let failed = report.failed.iter().filter(|f| section.is_of(f));
    let mut sizes = sizes(rows.iter().copied());
    sizes.extend(failed.map(|f| f.size));
    sizes.sort_unstable();
    sizes.dedup();
    // As many sizes side by side as there is room for.
    let mut count = SIDE_BY_SIDE;
    loop {
        let chunks = sizes.chunks(count);
        let tables: Vec<Table> =
            chunks.map(|sizes| by_size(report, section, sizes, &rows, notes)).collect();
        if count == 1 || tables.iter().all(|table| table.width(look) <= look.width) {
            return tables;
        }
        count -= 1;
    }
}

fn sizes<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<usize> {
    let mut sizes: Vec<usize> = rows.map(|row| row.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// The mechanisms of a section, in the order of their rows, and then those that failed.
fn names<'a>(report: &'a Report, section: Section, rows: &[&'a Row]) -> Vec<&'a str> {
    let failed = report.failed.iter().filter(|f| section.is_of(f)).map(|f| &f.mechanism);
    let mut names: Vec<&str> = Vec::new();
    for name in rows.iter().map(|row| &row.mechanism).chain(failed) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

fn heading(section: Section) -> String {
    match section.wait {
        Some(wait) => {
            format!("{}, {} ({})", section.work, super::comma::wait(wait), section.placement)
        }
        None => format!("{}, {}", section.work, section.placement),
    }
}

fn about(section: Section, what: &str) -> String {
    let place = match section.placement {
        Placement::OneCpu => "one CPU for both",
        Placement::TwoCpus => "CPUs that may sleep",
        Placement::TwoCpusAwake => "CPUs kept awake",
    };
    let wait = match section.wait {
        Some(WaitKind::Awake) => "; receivers spin",
        Some(WaitKind::Blocking) => "; receivers sleep",
        None => "",
    };
    format!("{what}; {place}{wait}")
}

/// Round trips and streams: one column for each size.
fn by_size(
    report: &Report,
    section: Section,
    sizes: &[usize],
    rows: &[&Row],
    notes: &mut Notes,
) -> Table {
    let least = Size(sizes[0]);
    let trip = section.work == Work::RoundTrip;
    let what = if trip { "there and back, median" } else { "one way, payload" };
    let mut columns: Vec<String> = sizes.iter().map(|size| Size(*size).to_string()).collect();
    columns.push(if trip { format!("p99, {least}") } else { format!("msg/s, {least}") });
    let has_floor = rows.iter().any(|row| row.floor_ratio.is_some());
    let has_faults = rows.iter().any(|row| row.faults_per_mib.is_some());
    if has_floor {
        columns.push(format!("over bare, {least}"));
    }
    columns.push("calls".to_owned());
    if has_faults {
        columns.push("faults".to_owned());
    }
    // Of many sizes, a mechanism stands only beside those that it has something to say to.
    let here: Vec<&Row> = rows.iter().copied().filter(|row| sizes.contains(&row.size)).collect();
    let all = names(report, section, &here);
    let lines = all.into_iter().map(|name| {
        let find = |size: usize| {
            rows.iter().copied().find(|row| row.mechanism == name && row.size == size)
        };
        let mut cells: Vec<Cell> = sizes
            .iter()
            .map(|size| match find(*size) {
                Some(row) => {
                    let cost = if trip { row.ns.p50 } else { -row.bytes_per_s };
                    let text = if trip { time(row.ns.p50) } else { rate(row.bytes_per_s) };
                    Cell::of(row, text, cost, notes)
                }
                None => Cell::absent(report, section, name, *size),
            })
            .collect();
        // What stands beside is of the smallest size that this mechanism has here.
        let first = find(sizes[0]);
        cells.push(first.map_or_else(Cell::none, |row| {
            if trip {
                Cell { text: time(row.ns.p99), cost: Some(row.ns.p99), ..Cell::default() }
            } else {
                let count = row.messages_per_s;
                Cell { text: frequency(count), cost: Some(-count), ..Cell::default() }
            }
        }));
        if has_floor {
            cells.push(Cell::plain(first.and_then(floor)));
        }
        cells.push(Cell::plain(first.and_then(|row| row.calls_per_message).map(number)));
        if has_faults {
            let last = sizes.iter().rev().find_map(|size| find(*size));
            cells.push(Cell::plain(last.and_then(|row| row.faults_per_mib).map(number)));
        }
        (name.to_owned(), cells)
    });
    let lines = lines.collect();
    Table { heading: heading(section), about: about(section, what), columns, lines }
}

/// What carries no data: how long it takes.
fn by_time(report: &Report, section: Section, rows: &[&Row], notes: &mut Notes) -> Table {
    let (what, typical) = match section.work {
        Work::Uncontended => ("lock and unlock, nobody else wants it", "mean"),
        Work::Contended => ("lock and unlock while the other does too", "mean"),
        Work::HandOver => ("from unlock to the next owner running", "median"),
        Work::Wake => ("from the call to the woken process running", "median"),
        Work::Lateness => ("later than asked for", "median"),
        _ => ("there and back", "median"),
    };
    // Averages over a batch have no percentiles worth a column.
    let each = typical == "median";
    let mut columns = vec![typical.to_owned()];
    columns.push(if each { "p99".to_owned() } else { "a second".to_owned() });
    columns.push("over floor".to_owned());
    columns.push("calls".to_owned());
    let lines = names(report, section, rows).into_iter().map(|name| {
        let Some(row) = rows.iter().copied().find(|row| row.mechanism == name) else {
            let mut cells = vec![Cell::absent(report, section, name, 0)];
            cells.resize_with(columns.len(), Cell::none);
            return (name.to_owned(), cells);
        };
        let second = if each {
            Cell { text: time(row.ns.p99), cost: Some(row.ns.p99), ..Cell::default() }
        } else {
            Cell::plain(Some(frequency(row.messages_per_s)))
        };
        let first = Cell::of(row, time(row.ns.p50), row.ns.p50, notes);
        let calls = row.calls_per_message.map(number);
        (name.to_owned(), vec![first, second, Cell::plain(floor(row)), Cell::plain(calls)])
    });
    let lines = lines.collect();
    Table { heading: heading(section), about: about(section, what), columns, lines }
}

/// One large payload: one column for each use, and one for its time where there is room.
fn bulk(
    report: &Report,
    section: Section,
    size: usize,
    rows: &[&Row],
    times: bool,
    notes: &mut Notes,
) -> Table {
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.size == size).collect();
    let has = |usage| rows.iter().any(|row| row.usage == Some(usage));
    let uses: Vec<Usage> =
        [Usage::First, Usage::Repeated].into_iter().filter(|u| has(*u)).collect();
    let has_floor = rows.iter().any(|row| row.floor_ratio.is_some());
    let has_faults = rows.iter().any(|row| row.faults_per_mib.is_some());
    let has_calls = rows.iter().any(|row| row.calls_per_message.is_some());
    let mut columns = Vec::new();
    for usage in &uses {
        columns.push(format!("{} use", super::comma::usage(*usage)));
        if times {
            columns.push(String::new());
        }
    }
    if has(Usage::HandOver) {
        columns.push("hand-over".to_owned());
    }
    if has_floor {
        columns.push("over bare".to_owned());
    }
    if has_calls {
        columns.push("calls".to_owned());
    }
    if has_faults {
        columns.push("faults".to_owned());
    }
    let lines = names(report, section, &rows).into_iter().map(|name| {
        let find =
            |u: Usage| rows.iter().copied().find(|r| r.mechanism == name && r.usage == Some(u));
        let mut cells = Vec::new();
        for usage in &uses {
            let row = find(*usage);
            cells.push(match row {
                Some(row) => Cell::of(row, rate(row.bytes_per_s), -row.bytes_per_s, notes),
                None => Cell::absent(report, section, name, size),
            });
            if times {
                cells.push(Cell::plain(row.map(|row| time(row.ns.p50))));
            }
        }
        if has(Usage::HandOver) {
            cells.push(find(Usage::HandOver).map_or_else(Cell::none, |row| {
                let took = row.hand_over_ns.as_ref().map_or(row.ns.p50, |d| d.p50);
                Cell::of(row, time(took), took, notes)
            }));
        }
        // Repeated use is what lasts; first use stands for it where there is no other.
        let steady = find(Usage::Repeated).or_else(|| find(Usage::First));
        if has_floor {
            cells.push(Cell::plain(steady.and_then(floor)));
        }
        if has_calls {
            cells.push(Cell::plain(steady.and_then(|row| row.calls_per_message).map(number)));
        }
        if has_faults {
            let fresh = find(Usage::First).or(steady);
            cells.push(Cell::plain(fresh.and_then(|row| row.faults_per_mib).map(number)));
        }
        (name.to_owned(), cells)
    });
    let lines = lines.collect();
    let what = format!("one payload of {}", Size(size).spoken());
    Table { heading: heading(section), about: about(section, &what), columns, lines }
}

fn floor(row: &Row) -> Option<String> {
    let ratio = row.floor_ratio?;
    Some(match row.floor_ratio_ci {
        Some([low, high]) => format!("{ratio:.2} ({low:.2}-{high:.2})"),
        None => format!("{ratio:.2}"),
    })
}

impl Cell {
    fn of(row: &Row, text: String, cost: f64, notes: &mut Notes) -> Self {
        let mut notes: Vec<usize> = row.doubts.iter().map(|doubt| notes.index(doubt)).collect();
        notes.sort_unstable();
        notes.dedup();
        if row.verified {
            Self { text, cost: Some(cost), notes, wrong: false }
        } else {
            Self { text: "UNVERIFIED".to_owned(), cost: None, notes, wrong: true }
        }
    }

    fn plain(text: Option<String>) -> Self {
        text.map_or_else(Self::none, |text| Self { text, ..Self::default() })
    }

    fn none() -> Self {
        Self { text: "-".to_owned(), ..Self::default() }
    }

    /// Where there is no row: did it fail?
    fn absent(report: &Report, section: Section, name: &str, size: usize) -> Self {
        let here = |f: &Skipped| f.mechanism == name && f.size == size && section.is_of(f);
        let failed = report.failed.iter().any(here);
        if failed {
            Self { text: "FAILED".to_owned(), wrong: true, ..Self::default() }
        } else {
            Self::none()
        }
    }

    /// What follows the value: whether it is best, and the letters of its notes.
    fn marks(&self, best: bool, look: Look) -> String {
        let best = best && !look.styled;
        if self.notes.is_empty() {
            return if best { "*".to_owned() } else { String::new() };
        }
        let mut marks = if best { "*" } else { " " }.to_owned();
        // A cell with many doubts is as doubtful as one with three.
        marks.extend(self.notes.iter().take(2).map(|note| letter(*note)));
        if self.notes.len() > 2 {
            marks.push('+');
        }
        marks
    }
}

/// The letter of a note: `a` is the first.
fn letter(note: usize) -> char {
    // There are a handful of kinds of doubts; beyond the alphabet they share the last letter.
    char::from(b'a' + u8::try_from(note.min(25)).unwrap_or(25))
}

/// How wide the parts of a table are, and what is best in each column.
struct Layout {
    name: usize,
    /// A value ends where those above and below end; its marks follow in room of their own.
    values: Vec<usize>,
    marks: Vec<usize>,
    best: Vec<Option<f64>>,
}

impl Table {
    fn layout(&self, look: Look) -> Layout {
        let columns = self.columns.len();
        let best = (0..columns)
            .map(|column| {
                let costs = self.lines.iter().filter_map(|(_, cells)| cells[column].cost);
                // Alone, nothing is best.
                if costs.clone().count() < 2 { None } else { costs.reduce(f64::min) }
            })
            .collect();
        let mut layout = Layout {
            name: self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(14),
            values: self.columns.iter().map(String::len).collect(),
            marks: vec![0; columns],
            best,
        };
        for (_, cells) in &self.lines {
            for (column, cell) in cells.iter().enumerate() {
                let marks = cell.marks(layout.is_best(column, cell), look).len();
                layout.values[column] = layout.values[column].max(cell.text.len());
                layout.marks[column] = layout.marks[column].max(marks);
            }
        }
        layout
    }

    fn width(&self, look: Look) -> usize {
        let layout = self.layout(look);
        let columns = layout.values.iter().zip(&layout.marks);
        layout.name + columns.map(|(value, marks)| 2 + value + marks).sum::<usize>()
    }
}

impl Layout {
    fn is_best(&self, column: usize, cell: &Cell) -> bool {
        cell.cost.is_some() && cell.cost == self.best[column]
    }
}

fn draw(table: &Table, look: Look, out: &mut String) {
    let _ = writeln!(out, "{}  {}", look.bold(&table.heading), look.faint(&table.about));
    let layout = table.layout(look);
    let mut line = format!("{:1$}", "", layout.name);
    for (column, name) in table.columns.iter().enumerate() {
        let _ = write!(line, "  {name:>0$}{1:2$}", layout.values[column], "", layout.marks[column]);
    }
    let _ = writeln!(out, "{}", look.faint(line.trim_end()));
    for (name, cells) in &table.lines {
        let mut line = format!("{name:0$}", layout.name);
        for (column, cell) in cells.iter().enumerate() {
            let best = layout.is_best(column, cell);
            let text = if cell.wrong {
                look.loud(&cell.text)
            } else if best {
                look.best(&cell.text)
            } else {
                cell.text.clone()
            };
            let before = layout.values[column] - cell.text.len();
            let marks = cell.marks(best, look);
            let _ = write!(line, "  {:before$}{text}{marks:1$}", "", layout.marks[column]);
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

impl Notes {
    /// The index of a doubt. Doubts that differ in figures only are one note.
    fn index(&mut self, doubt: &str) -> usize {
        let kind: String = doubt.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).fold(
            String::new(),
            |mut kind, c| {
                // Of a number, however long, one digit stays.
                if !(c == '0' && kind.ends_with('0')) && c != '.' {
                    kind.push(c);
                }
                kind
            },
        );
        if let Some(at) = self.0.iter().position(|(other, ..)| *other == kind) {
            self.0[at].2 |= self.0[at].1 != doubt;
            return at;
        }
        self.0.push((kind, doubt.to_owned(), false));
        self.0.len() - 1
    }

    fn render(&self, look: Look, out: &mut String) {
        if self.0.is_empty() {
            return;
        }
        let _ = write!(out, "\n{}\n", look.bold("Doubts"));
        for (number, (_, text, varies)) in self.0.iter().enumerate() {
            let first = format!("{}  ", letter(number));
            let more = if *varies { " (here; the figures differ from row to row)" } else { "" };
            let indent = " ".repeat(first.len());
            out.push_str(&wrap(&format!("{text}{more}"), look.width, &first, &indent));
        }
    }
}

#[cfg(test)]
mod tests;
