//! What a user can set: a file of lines `name = value`.

use std::fs;
use std::path::Path;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What requests are answered with.
    pub(crate) greeting: String,
    /// The time between two ticks of the timer, or no timer.
    pub(crate) period: Option<Duration>,
    /// How long a client or a child may keep the service from ending.
    pub(crate) patience: Duration,
}

impl Settings {
    /// Reads the file. Where anything in it is wrong, nothing of it counts.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let mut settings =
            Self { greeting: "hello".into(), period: None, patience: Duration::from_secs(10) };
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        for (number, line) in text.lines().enumerate() {
            let wrong = || format!("{}:{}: {line}", path.display(), number + 1);
            let (name, value) = line.split_once('=').ok_or_else(wrong)?;
            let value = value.trim();
            let milliseconds = || value.parse().map(Duration::from_millis).map_err(|_| wrong());
            match name.trim() {
                "greeting" => settings.greeting = value.into(),
                "period_ms" => settings.period = Some(milliseconds()?).filter(|p| !p.is_zero()),
                "patience_ms" => settings.patience = milliseconds()?,
                _ => return Err(wrong()),
            }
        }
        Ok(settings)
    }
}
