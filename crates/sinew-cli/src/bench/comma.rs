//! A report as comma-separated values: one line per row, the header is stable.

use sinew_bench::Report;
use sinew_bench::report::{Distribution, Row, Skipped, Usage, WaitKind};

/// The columns. New ones come at the end.
pub(crate) const HEADER: [&str; 31] = [
    "status",
    "mechanism",
    "work",
    "use",
    "size",
    "placement",
    "wait",
    "count",
    "ns_p50",
    "ns_min",
    "ns_p90",
    "ns_p99",
    "ns_p999",
    "ns_max",
    "ns_mean",
    "messages_per_s",
    "bytes_per_s",
    "cpu_ns_per_message",
    "calls_per_message",
    "faults_per_mib",
    "floor_ratio",
    "floor_ratio_lo",
    "floor_ratio_hi",
    "hand_over_ns_p50",
    "hand_over_ns_min",
    "hand_over_ns_p99",
    "hand_over_ns_max",
    "verified",
    "sha256",
    "doubts",
    "reason",
];

pub(crate) fn render(report: &Report) -> Result<String, String> {
    let mut out = csv::Writer::from_writer(Vec::new());
    let mut write = |record: &[String]| out.write_record(record).map_err(|e| e.to_string());
    write(&HEADER.map(str::to_owned))?;
    for row in &report.rows {
        write(&measured(row))?;
    }
    for (status, rows) in [("skipped", &report.skipped), ("failed", &report.failed)] {
        for row in rows {
            write(&absent(status, row))?;
        }
    }
    let bytes = out.into_inner().map_err(|e| e.to_string())?;
    String::from_utf8(bytes).map_err(|e| e.to_string())
}

pub(super) const fn usage(usage: Usage) -> &'static str {
    match usage {
        Usage::First => "first",
        Usage::Repeated => "repeated",
        Usage::HandOver => "hand-over",
    }
}

pub(super) const fn wait(wait: WaitKind) -> &'static str {
    match wait {
        WaitKind::Awake => "awake",
        WaitKind::Blocking => "blocking",
    }
}

fn measured(row: &Row) -> [String; 31] {
    let float = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    let over = |part: fn(&Distribution) -> f64| float(row.hand_over_ns.as_ref().map(part));
    [
        "measured".to_owned(),
        row.mechanism.clone(),
        row.work.to_string(),
        row.usage.map_or("", usage).to_owned(),
        row.size.to_string(),
        row.placement.to_string(),
        row.wait.map_or("", wait).to_owned(),
        row.count.to_string(),
        row.ns.p50.to_string(),
        row.ns.min.to_string(),
        row.ns.p90.to_string(),
        row.ns.p99.to_string(),
        row.ns.p999.to_string(),
        row.ns.max.to_string(),
        row.ns.mean.to_string(),
        row.messages_per_s.to_string(),
        row.bytes_per_s.to_string(),
        float(row.cpu_ns_per_message),
        float(row.calls_per_message),
        float(row.faults_per_mib),
        float(row.floor_ratio),
        float(row.floor_ratio_ci.map(|ci| ci[0])),
        float(row.floor_ratio_ci.map(|ci| ci[1])),
        over(|d| d.p50),
        over(|d| d.min),
        over(|d| d.p99),
        over(|d| d.max),
        row.verified.to_string(),
        row.sha256.clone().unwrap_or_default(),
        row.doubts.join("; "),
        String::new(),
    ]
}

fn absent(status: &str, row: &Skipped) -> [String; 31] {
    let mut record = [const { String::new() }; 31];
    record[0] = status.to_owned();
    record[1].clone_from(&row.mechanism);
    record[2] = row.work.to_string();
    record[4] = row.size.to_string();
    record[5] = row.placement.map_or(String::new(), |p| p.to_string());
    record[30].clone_from(&row.reason);
    record
}
