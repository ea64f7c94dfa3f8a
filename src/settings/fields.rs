use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::BadSetting;
use crate::model::{MAX_ALTNAME, check_interface_name};

/// Collects what is wrong while values are read one after the other.
#[derive(Default)]
pub(super) struct Collector {
    pub(super) bad: Vec<BadSetting>,
}

/// What is wrong with a value, and the remedy.
pub(super) struct Complaint {
    wrong: String,
    remedy: String,
}

impl Complaint {
    pub(super) fn new(wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        Complaint { wrong: wrong.into(), remedy: remedy.into() }
    }
}

impl Collector {
    /// The value as `parse` reads it; `default` when it is unset or empty. A bad value is noted, and `None` returned.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        value: Option<String>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        match value.filter(|v| !v.trim().is_empty()) {
            None => Some(default),
            Some(value) => self.given(name, value, parse),
        }
    }

    /// Like [`Self::optional`] without a default: unset or empty is noted with `remedy`.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        value: Option<String>,
        remedy: &str,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        match value.filter(|v| !v.trim().is_empty()) {
            None => {
                self.note(name, None, Complaint::new("it is required and not set", remedy));
                None
            }
            Some(value) => self.given(name, value, parse),
        }
    }

    /// The value as `parse` reads it, also when it is empty.
    pub(super) fn given<T>(
        &mut self,
        name: &'static str,
        value: String,
        parse: impl FnOnce(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        match parse(value.trim()) {
            Ok(parsed) => Some(parsed),
            Err(complaint) => {
                self.note(name, Some(value), complaint);
                None
            }
        }
    }

    pub(super) fn note(&mut self, name: &'static str, value: Option<String>, complaint: Complaint) {
        let flag = format!("--{}", name.trim_start_matches("SNCTRLR_").to_ascii_lowercase().replace('_', "-"));
        self.bad.push(BadSetting { name, flag, value, wrong: complaint.wrong, remedy: complaint.remedy });
    }
}

/// true, false, 1, 0, yes, no in any case.
pub(super) fn boolean(text: &str) -> Result<bool, Complaint> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(Complaint::new("it is neither true nor false", "write true, false, yes, no, 1 or 0")),
    }
}

/// A whole number within `range`.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl FnOnce(&str) -> Result<T, Complaint>
where
    T: FromStr + PartialOrd + Display,
{
    move |text| {
        let remedy = format!("write a whole number from {} to {}", range.start(), range.end());
        match text.parse::<T>() {
            Ok(n) if range.contains(&n) => Ok(n),
            Ok(_) => Err(Complaint::new("it is out of range", remedy)),
            Err(_) => Err(Complaint::new("it is no whole number that fits", remedy)),
        }
    }
}

/// A name that an interface can have, and that means this interface alone in a rule.
pub(super) fn interface_name(text: &str) -> Result<String, Complaint> {
    match check_interface_name(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(why) => Err(Complaint::new(why.to_string(), "name an interface as `ip link` shows it, for example eth0")),
    }
}

/// The name of one interface: the kernel's or an altname, which has up to 127 bytes (ALTIFNAMSIZ - 1).
pub(super) fn interface_or_altname(text: &str) -> Result<String, Complaint> {
    const REMEDY: &str = "name an interface as `ip link` shows it, for example eth0, or by an altname that it shows";
    if text.len() > MAX_ALTNAME {
        return Err(Complaint::new(
            format!("it has {} bytes, and names of interfaces have at most 15, altnames {MAX_ALTNAME}", text.len()),
            REMEDY,
        ));
    }
    if text == "." || text == ".." || text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(Complaint::new("no interface can be named so (no spaces or slashes)", REMEDY));
    }
    Ok(text.to_owned())
}

/// Items of a comma separated list, trimmed, empty ones left out, each once.
pub(super) fn list(text: &str) -> Vec<&str> {
    let mut items: Vec<&str> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|i| !i.is_empty()) {
        if !items.contains(&item) {
            items.push(item);
        }
    }
    items
}
