//! `sinew mechanisms`: what each mechanism is and can do, and the limits of this host.

use std::fmt::Write as _;

use serde::Serialize;
use sinew::Mechanism;
use sinew::limits::{Limit, Unit, Value};
use sinew::mechanism::{Credentials, Facts, Largest, Naming};

use crate::Trouble;
use crate::arguments;
use crate::output::{self, Look, wrap};
use crate::quantity;
use crate::size::Size;

pub(crate) fn run(wish: &arguments::Mechanisms) -> Result<(), Trouble> {
    let text = match (wish.json, wish.name) {
        (true, name) => {
            let document = Document::of(name);
            let pretty = std::io::IsTerminal::is_terminal(&std::io::stdout());
            let text = if pretty {
                serde_json::to_string_pretty(&document)
            } else {
                serde_json::to_string(&document)
            };
            text.map_err(|e| Trouble::Failed(format!("cannot write JSON: {e}")))? + "\n"
        }
        (false, Some(name)) => story(name, Look::of_stdout()),
        (false, None) => table(Look::of_stdout()),
    };
    output::print(text.as_bytes()).map_err(Trouble::Failed)
}

/// What stands where something cannot be.
const NO: &str = "-";

fn table(look: Look) -> String {
    let mut rows = vec![
        [
            "MECHANISM",
            "CARRIES",
            "DIRECTION",
            "NAMED BY",
            "LIVES",
            "POLL",
            "FDS",
            "PRIO",
            "CREDS",
            "LARGEST",
        ]
        .map(str::to_owned),
    ];
    for mechanism in Mechanism::ALL {
        let facts = mechanism.facts();
        let yes = |is: bool| if is { "yes" } else { NO }.to_owned();
        let naming: Vec<_> = facts.naming.iter().map(|n| n.name()).collect();
        let creds = facts.credentials != Credentials::None;
        rows.push([
            mechanism.to_string(),
            facts.carries.name().to_owned(),
            facts.direction.name().to_owned(),
            naming.join(" "),
            facts.lifetime.name().to_owned(),
            yes(facts.pollable),
            yes(facts.passes_fds),
            yes(facts.priority),
            yes(creds),
            largest(facts.largest),
        ]);
    }
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let line = line.trim_end();
        if number == 0 {
            out.push_str(&look.bold(line));
        } else if let Some((name, rest)) = line.split_once(' ') {
            let _ = write!(out, "{} {rest}", look.bold(name));
        }
        out.push('\n');
    }
    out.push('\n');
    out.push_str(&limits_table(&Limit::ALL, look));
    out.push_str("\n`sinew mechanisms NAME` tells all about one; --help explains the columns.\n");
    out
}

fn largest(largest: Largest) -> String {
    match largest {
        Largest::NoMessages => NO.to_owned(),
        Largest::Unbounded => "any".to_owned(),
        // The kernel's way to say that there is no limit is a number close to 2^64.
        _ => match largest.now() {
            Some(bytes) if bytes >= 1 << 62 => "any".to_owned(),
            Some(bytes) => {
                usize::try_from(bytes).map_or_else(|_| bytes.to_string(), |b| Size(b).to_string())
            }
            None => "?".to_owned(),
        },
    }
}

/// The value of a limit as a person reads it.
fn value(limit: Limit) -> String {
    match limit.read() {
        Ok(Value::Finite(value)) if value >= 1 << 62 => "no limit".to_owned(),
        Ok(Value::Finite(value)) => match limit.unit() {
            Unit::Bytes if value >= 1024 => format!("{value} bytes ({})", short(value)),
            Unit::Bytes => format!("{value} bytes"),
            Unit::Pages => {
                let page = rustix::param::page_size() as u64;
                format!("{value} pages ({})", short(value.saturating_mul(page)))
            }
            _ => value.to_string(),
        },
        Ok(_) => "no limit".to_owned(),
        Err(_) => "unreadable".to_owned(),
    }
}

/// `8 KiB`, `23.5 GiB`.
fn short(bytes: u64) -> String {
    quantity::memory(bytes).replace(".00 ", " ").replace(".0 ", " ")
}

fn limits_table(limits: &[Limit], look: Look) -> String {
    let name = limits.iter().map(|l| l.name().len()).max().unwrap_or(0).max(5);
    let values: Vec<String> = limits.iter().map(|l| value(*l)).collect();
    let number = values.iter().map(String::len).max().unwrap_or(0).max(5);
    let head = format!("{:name$}  {:number$}  FOR", "LIMIT", "HERE");
    let mut out = look.bold(&head) + "\n";
    for (limit, value) in limits.iter().zip(&values) {
        let _ = writeln!(out, "{:name$}  {value:number$}  {}", limit.name(), limit.scope());
    }
    for limit in limits {
        if let Err(why) = limit.read() {
            out.push_str(&wrap(&why.to_string(), look.width, "  ", "    "));
        }
    }
    out
}

fn story(mechanism: Mechanism, look: Look) -> String {
    let facts = mechanism.facts();
    let mut out = format!("{}\n", look.bold(mechanism.name()));
    out.push_str(&wrap(facts.about, look.width, "  ", "  "));
    out.push('\n');
    let naming: Vec<_> = facts.naming.iter().map(Naming::to_string).collect();
    let yes = |is: bool, what: &str| if is { format!("yes: {what}") } else { "no".to_owned() };
    let poll = yes(facts.pollable, "fits poll, select and epoll");
    let fds = yes(facts.passes_fds, "file descriptors can be sent along");
    let priority = yes(facts.priority, "urgent messages overtake others");
    let sources = facts.sources.join(", ");
    let used = roles(facts);
    let lines = [
        ("carries", facts.carries.text()),
        ("boundaries", facts.boundaries.text()),
        ("direction", facts.direction.text()),
        ("found by", &naming.join(", ")),
        ("lives", facts.lifetime.text()),
        ("largest", &facts.largest.to_string()),
        ("a sent message is", facts.accepted.text()),
        ("atomicity", facts.atomicity),
        ("after a crash", facts.after_crash),
        ("pollable", &poll),
        ("descriptors", &fds),
        ("priorities", &priority),
        ("credentials", facts.credentials.text()),
        ("in Sinew", &used),
        ("sources", &sources),
    ];
    for (name, text) in lines {
        let label = format!("  {name:17}  ");
        out.push_str(&wrap(text, look.width, &label, &" ".repeat(label.len())));
    }
    if facts.limits.is_empty() {
        out.push_str("\nNo limit of the host bounds it but memory.\n");
        return out;
    }
    out.push_str("\nLimits of this host\n");
    for limit in facts.limits {
        let _ = writeln!(out, "\n  {}  {}", look.bold(limit.name()), value(*limit));
        let about = format!("{}; for {}", limit.about(), limit.scope());
        out.push_str(&wrap(&about, look.width, "    ", "    "));
        match limit.read() {
            Ok(_) => {
                let place = format!("read from {}", limit.location());
                out.push_str(&wrap(&place, look.width, "    ", "      "));
            }
            Err(why) => {
                out.push_str(&wrap(&format!("unreadable: {why}"), look.width, "    ", "      "));
            }
        }
        out.push_str(&wrap(
            &format!("to raise it: {}", limit.raise()),
            look.width,
            "    ",
            "      ",
        ));
    }
    out
}

fn roles(facts: &Facts) -> String {
    let mut all = Vec::new();
    if facts.roles.endpoint {
        all.push("an endpoint");
    }
    if facts.roles.bench_row {
        all.push("a row of `sinew bench`");
    }
    if facts.roles.listed {
        all.push("an object that can be listed");
    }
    if all.is_empty() { "in the vocabulary".to_owned() } else { all.join(", ") }
}

/// The facts as JSON.
#[derive(Serialize)]
struct Document {
    schema: u32,
    mechanisms: Vec<MechanismJson>,
    limits: Vec<LimitJson>,
}

#[derive(Serialize)]
struct MechanismJson {
    name: &'static str,
    about: &'static str,
    roles: RolesJson,
    carries: &'static str,
    boundaries: &'static str,
    direction: &'static str,
    naming: Vec<&'static str>,
    lifetime: &'static str,
    pollable: bool,
    passes_fds: bool,
    priority: bool,
    credentials: &'static str,
    largest: LargestJson,
    accepted: &'static str,
    atomicity: &'static str,
    after_crash: &'static str,
    sources: &'static [&'static str],
    limits: Vec<&'static str>,
}

#[derive(Serialize)]
struct RolesJson {
    endpoint: bool,
    bench_row: bool,
    listed: bool,
}

#[derive(Serialize)]
struct LargestJson {
    kind: &'static str,
    /// Absent where there is no such number.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct LimitJson {
    name: &'static str,
    /// Absent if there is no limit or it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<u64>,
    unlimited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
    unit: &'static str,
    scope: &'static str,
    about: &'static str,
    location: &'static str,
    raise: &'static str,
}

impl Document {
    fn of(name: Option<Mechanism>) -> Self {
        let some = name.map_or_else(|| Mechanism::ALL.to_vec(), |one| vec![one]);
        let limits = name.map_or_else(|| Limit::ALL.to_vec(), |one| one.facts().limits.to_vec());
        Self {
            schema: 1,
            mechanisms: some.iter().map(|m| MechanismJson::of(m.facts())).collect(),
            limits: limits.into_iter().map(LimitJson::of).collect(),
        }
    }
}

impl MechanismJson {
    fn of(facts: &Facts) -> Self {
        let kind = match facts.largest {
            Largest::NoMessages => "no-messages",
            Largest::Unbounded => "unbounded",
            Largest::Limit(_) => "limit",
            Largest::SendBufferLess(_) => "send-buffer",
            _ => "bytes",
        };
        Self {
            name: facts.mechanism.name(),
            about: facts.about,
            roles: RolesJson {
                endpoint: facts.roles.endpoint,
                bench_row: facts.roles.bench_row,
                listed: facts.roles.listed,
            },
            carries: facts.carries.name(),
            boundaries: facts.boundaries.name(),
            direction: facts.direction.name(),
            naming: facts.naming.iter().map(|n| n.name()).collect(),
            lifetime: facts.lifetime.name(),
            pollable: facts.pollable,
            passes_fds: facts.passes_fds,
            priority: facts.priority,
            credentials: facts.credentials.name(),
            largest: LargestJson { kind, bytes: facts.largest.now() },
            accepted: facts.accepted.name(),
            atomicity: facts.atomicity,
            after_crash: facts.after_crash,
            sources: facts.sources,
            limits: facts.limits.iter().map(|l| l.name()).collect(),
        }
    }
}

impl LimitJson {
    fn of(limit: Limit) -> Self {
        let (value, unlimited, unreadable) = match limit.read() {
            Ok(Value::Finite(value)) => (Some(value), false, None),
            Ok(_) => (None, true, None),
            Err(why) => (None, false, Some(why.to_string())),
        };
        Self {
            name: limit.name(),
            value,
            unlimited,
            unreadable,
            unit: if limit.unit() == Unit::Count { "count" } else { limit.unit().name() },
            scope: limit.scope().name(),
            about: limit.about(),
            location: limit.location(),
            raise: limit.raise(),
        }
    }
}
