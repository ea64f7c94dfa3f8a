use std::collections::BTreeMap;
use std::fmt::{Error, Write};
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::{PassDurations, Report};
use crate::apply::conntrack::ConntrackCounts;
use crate::model::NeighbourState;
use crate::plan::{InterfaceKind, InterfaceOutcome};
use crate::sources::SourceState;

/// What a scrape is answered with.
#[derive(Debug)]
struct Scrape {
    report: Report,
    conntrack: Option<ConntrackCounts>,
}

/// Media type and body for a scrape: OpenMetrics 1.0 if asked for, else Prometheus' text format 0.0.4.
pub fn render(
    report: &Report,
    conntrack: Option<ConntrackCounts>,
    openmetrics: bool,
) -> Result<(&'static str, String), Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape { report: report.clone(), conntrack }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    if openmetrics {
        return Ok(("application/openmetrics-text; version=1.0.0; charset=utf-8", text));
    }
    Ok(("text/plain; version=0.0.4; charset=utf-8", classic(&text)?))
}

/// The older text format names a counter's family as its samples (`_total` included) and knows no UNIT line.
fn classic(openmetrics: &str) -> Result<String, Error> {
    let counters: Vec<&str> =
        openmetrics.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(openmetrics.len() + 256);
    for line in openmetrics.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "UNIT", ..] => {}
            ["#", what @ ("HELP" | "TYPE"), name, rest] if counters.contains(name) => {
                writeln!(out, "# {what} {name}_total {rest}")?;
            }
            _ => writeln!(out, "{line}")?,
        }
    }
    Ok(out)
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut out = Writer(encoder);
        self.passes(&mut out)?;
        self.work(&mut out)?;
        self.served(&mut out)?;
        if let Some(conntrack) = &self.conntrack {
            tracking(conntrack, &mut out)?;
        }
        Ok(())
    }
}

impl Scrape {
    fn passes(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let r = &self.report;
        let c = &r.counters;
        let version = env!("CARGO_PKG_VERSION");
        out.gauges("smartnat_build_info", "Always 1; the version is in the label", "version", [(version, 1.0)])?;
        out.counter("smartnat_passes", "Passes of the loop: plan, apply, report", c.passes)?;
        out.histogram("smartnat_pass_duration", "Time that a successful pass took", &c.durations)?;
        out.counter("smartnat_apply_failures", "Passes that failed to bring the kernel to the plan", c.failed_passes)?;
        let last = r.last_pass.map_or(0.0, |p| unix_seconds(p.at));
        out.gauge(
            "smartnat_last_good_pass_timestamp",
            "Unix time of the last pass that went well, 0 before",
            last,
            true,
        )?;
        out.gauge("smartnat_ready", "1 after the first full apply", f64::from(u8::from(r.ready)), false)?;
        if let Some(expires) = r.credential.as_ref().and_then(|c| c.expires) {
            let help = "Unix time at which the credential for the API server expires";
            out.gauge("smartnat_credential_expiry_timestamp", help, expires.as_second() as f64, true)?;
        }
        let sources = r.sources.iter().map(|(name, s)| (*name, flag(s.state == SourceState::Current)));
        out.gauges("smartnat_source_up", "1 while a source delivers its current state", "source", sources)
    }

    fn work(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let c = &self.report.counters;
        out.counter("smartnat_tool_calls", "Calls of kernel tools (iptables-restore, ipset, ...)", c.tool_calls)?;
        out.counters("smartnat_writes", "Objects written to the kernel", "kind", &c.writes)?;
        out.counters("smartnat_repairs", "Objects put right after something else changed them", "kind", &c.repairs)?;
        out.counters(
            "smartnat_flows_removed",
            "Connections cut because they are allowed no more",
            "reason",
            &c.flows_removed,
        )?;
        out.counters("smartnat_api_writes", "Writes to Mappings in the Kubernetes API", "kind", &c.api_writes)?;
        out.counter("smartnat_api_write_failures", "Writes to Mappings that failed and are tried again", c.api_failures)
    }

    fn served(&self, out: &mut Writer<'_>) -> Result<(), Error> {
        let outcomes = &self.report.outcomes;
        let of = |wanted: [bool; 2]| {
            let matching = outcomes.mappings.values().filter(|m| [m.refused.is_some(), m.programmed.ok] == wanted);
            matching.count() as f64
        };
        let states = [
            ("programmed", of([false, true])),
            ("not_programmed", of([false, false])),
            ("refused", of([true, false]) + of([true, true])),
        ];
        out.gauges("smartnat_mappings", "Mappings by what became of them on this instance", "state", states)?;
        let endpoints = self.report.endpoints() as f64;
        out.gauge("smartnat_endpoints", "Endpoints (address, protocol, port) served here", endpoints, false)?;
        let seen = || outcomes.interfaces.iter().filter(|i| has_border(i.kind));
        let links = seen().map(|i: &InterfaceOutcome| (i.name.as_str(), flag(i.up && i.carrier)));
        out.gauges("smartnat_link_up", "1 while an interface is up and has carrier", "interface", links)?;
        let neighbours = seen().filter_map(|i| {
            let reachable = i.gateway_neighbour? != NeighbourState::Failed;
            Some((i.name.as_str(), flag(reachable)))
        });
        out.gauges(
            "smartnat_gateway_neighbour_reachable",
            "1 while the gateway of an external interface answers (no sample before it was asked for)",
            "interface",
            neighbours,
        )
    }
}

/// Of other interfaces there may be hundreds, and nothing depends on a single one.
fn has_border(kind: InterfaceKind) -> bool {
    matches!(kind, InterfaceKind::Gateway | InterfaceKind::External | InterfaceKind::Absent)
}

fn tracking(c: &ConntrackCounts, out: &mut Writer<'_>) -> Result<(), Error> {
    out.gauge("smartnat_conntrack_entries", "Connections that the kernel tracks", c.entries as f64, false)?;
    let help = "Connections that the kernel can track (net.netfilter.nf_conntrack_max)";
    out.gauge("smartnat_conntrack_entries_limit", help, c.limit as f64, false)?;
    let drops = [("drop", c.drop), ("early_drop", c.early_drop), ("insert_failed", c.insert_failed)].into();
    out.counters("smartnat_conntrack_drops", "Packets and entries lost by connection tracking", "reason", &drops)
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// Writes families; those without a sample are left out.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &BTreeMap<&'static str, u64>,
    ) -> Result<(), Error> {
        if values.is_empty() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, value) in values {
            ConstCounter::new(*value).encode(metric.encode_family(&[(label, *kind)])?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64, seconds: bool) -> Result<(), Error> {
        let unit = seconds.then_some(Unit::Seconds);
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?)
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'l str, f64)>,
    ) -> Result<(), Error> {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            ConstGauge::new(value).encode(metric.encode_family(&[(label, of)])?)?;
        }
        Ok(())
    }

    fn histogram(&mut self, name: &str, help: &str, durations: &PassDurations) -> Result<(), Error> {
        let mut metric: MetricEncoder<'_> =
            self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let bounds = PassDurations::BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(durations.buckets).collect();
        metric.encode_histogram::<NoLabelSet>(durations.sum.as_secs_f64(), durations.count(), &buckets, None)
    }
}

#[cfg(test)]
mod tests;
