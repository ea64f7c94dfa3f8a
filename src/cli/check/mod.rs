//! `check`: looks for what would keep SmartNat from working on this box. Every group is a pure function from gathered facts to findings.

mod api;
mod bridges;
mod features;
mod first_smartnat;
mod foreign;
mod gather;
mod interfaces;
mod kube_proxy;
mod mappings;
mod marks;
mod native;
mod policy_rules;
mod privileges;
mod routes;
mod switches;
mod sysctls;
mod tools;
mod variant;

pub(super) use kube_proxy::in_use as of_mode_service;

use super::foreign::packet::Scene;
use super::world;
use super::{Answer, CliError, say};
use crate::apply::Tools;
use crate::model::{World, printable};
use crate::plan;
use crate::settings::Settings;
use crate::sources::host::read_foreign_rules;
use gather::Gather;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    /// It works, but not as well or not for everything.
    Warn,
    /// SmartNat would not work, or not be safe.
    Fail,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    level: Level,
    group: &'static str,
    what: String,
    /// Empty for what is well.
    remedy: String,
}

impl Finding {
    fn ok(group: &'static str, what: impl Into<String>) -> Self {
        Finding { level: Level::Ok, group, what: what.into(), remedy: String::new() }
    }

    fn warn(group: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { level: Level::Warn, group, what: what.into(), remedy: remedy.into() }
    }

    fn fail(group: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding { level: Level::Fail, group, what: what.into(), remedy: remedy.into() }
    }
}

pub(super) async fn run(settings: Settings) -> Result<Answer, CliError> {
    let gather = Gather::new(settings.tool_timeout);
    let mut findings = privileges::evaluate(&gather.read("/proc/self/status").unwrap_or_default());
    findings.extend(tools::evaluate(&tools::gather(&gather).await));
    findings.extend(features::evaluate(&features::gather(&gather).await));
    let variants = variant::gather(&gather).await;
    findings.extend(variant::evaluate(&variants));
    findings.extend(native::findings(settings.tool_timeout).await);
    let others = crate::cli::foreign::gather(&Tools::new(settings.tool_timeout)).await;
    findings.extend(marks::evaluate(settings.border.marks, &others, &marks::gather(&gather).await));
    findings.extend(first_smartnat::findings(settings.tool_timeout).await);
    let (about_api, objects_there) = api::findings(&settings, &gather).await;
    findings.extend(about_api);
    let snapshot = |error| {
        Finding::fail("snapshot", crate::error_chain(&error), "correct it: what depends on it has not been looked at")
    };
    // The host can be judged without objects; that the API is away has been told.
    let objects = match objects_there {
        true => world::objects(&settings).await.unwrap_or_else(|error| {
            findings.push(snapshot(error));
            None
        }),
        false => None,
    };
    match world::host(None).await {
        Ok(host) => {
            let slots = plan::slots::remembered(&settings.border, &host.own_rules);
            let world = World { host, objects: objects.map(Into::into), slots };
            let plan = plan::plan(&settings.border, &world);
            findings.extend(interfaces::evaluate(&settings.border, &world.host, &plan));
            findings.extend(routes::evaluate(&world.host, &plan));
            findings.extend(policy_rules::evaluate(
                &world.host,
                &plan,
                settings.border.marks,
                &read_foreign_rules().await,
            ));
            findings.extend(mappings::evaluate(&plan));
            let daemon_runs = super::status::daemon_answers(settings.monitor).await;
            let read = |path: &str| gather.read(&format!("/proc/sys/net/{path}"));
            findings.extend(sysctls::evaluate(&plan, daemon_runs, &read));
            findings.extend(switches::evaluate(&world.host, &plan, &read));
            let anywhere = |path: &str| gather.read(path);
            let entries = |path: &str| std::fs::read_dir(path).ok().map(Iterator::count);
            findings.extend(bridges::evaluate(&plan, &bridges::gather(world.host.links.keys(), &anywhere, &entries)));
            let in_use = kube_proxy::in_use(&world, &plan);
            let scene = Scene::of(&settings.border, &world.host, &plan, !in_use.is_empty());
            findings.extend(foreign::evaluate(&scene, &others));
            findings.extend(kube_proxy::evaluate(&kube_proxy::gather(&gather, &variants).await, &in_use));
        }
        Err(error) => findings.push(snapshot(error)),
    }
    say(&print(&findings))?;
    Ok(if findings.iter().any(|f| f.level == Level::Fail) { Answer::No } else { Answer::Done })
}

fn print(findings: &[Finding]) -> String {
    let mut out = String::new();
    for f in findings {
        let level = match f.level {
            Level::Ok => "OK  ",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        out += &format!("{level}  {:<11}  {}\n", f.group, printable(&f.what));
        if !f.remedy.is_empty() {
            out += &format!("{:19}-> {}\n", "", printable(&f.remedy));
        }
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    out + &format!("\nok: {}, warnings: {}, failures: {}\n", count(Level::Ok), count(Level::Warn), count(Level::Fail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_printed_with_their_remedies_and_counted() {
        let text = print(&[Finding::ok("tools", "ipset 7"), Finding::fail("routes", "no way", "add one")]);
        assert_eq!(
            text,
            "OK    tools        ipset 7\n\
             FAIL  routes       no way\n                   -> add one\n\
             \nok: 1, warnings: 0, failures: 1\n"
        );
    }
}
