use clap::Args;

use super::table::table;
use super::{Answer, CliError, complain, say};
use crate::cluster::forget::{Forget, ForgetError, Forgotten, renewed};
use crate::cluster::{ConnectError, connect};
use crate::settings::{ClusterSettings, ObjectSource, is_instance_name};

#[derive(Debug, Args)]
pub(super) struct ForgetArgs {
    /// Name of the instance
    #[arg(value_name = "NAME")]
    name: String,
    /// Also while it lives, and without watching its Lease
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(settings: ClusterSettings, args: ForgetArgs) -> Result<Answer, CliError> {
    let ForgetArgs { name, force } = args;
    if !is_instance_name(&name) {
        return Err(CliError::Usage(format!("{name:?} names no instance: their names are DNS names in lower case")));
    }
    let session = session(&settings.objects).await?;
    let forget = Forget { client: session.client, namespace: settings.namespace, name, duration: settings.lease };
    let nothing = |e| CliError::failed(format!("nothing was changed at {}", session.server), e);
    let known = forget.look().await.map_err(nothing)?;
    if let (Some(lease), false) = (known.lease(), force) {
        complain(&format!(
            "Watching Lease {}/{} (last renewed {}) for {} s; --force does not.",
            forget.namespace,
            forget.name,
            renewed(lease).map_or_else(|| "never".to_owned(), |t| format!("{t:.0}")),
            forget.watched_for(lease).as_secs()
        ));
        match forget.see_that_it_is_silent(lease).await {
            Ok(()) => {}
            Err(alive @ ForgetError::Alive { .. }) => return refused(&alive),
            Err(error) => return Err(nothing(error)),
        }
    }
    let others: Vec<String> = known.names.iter().filter(|n| **n != forget.name).cloned().collect();
    match forget.remove(known, force).await {
        Ok(done) => {
            say(&text(&forget.name, &forget.namespace, &done, &others))?;
            Ok(Answer::Done)
        }
        Err(alive @ ForgetError::Alive { .. }) => refused(&alive),
        Err(error) => Err(CliError::failed(
            format!("instance {} is forgotten in part; the rest goes when this is run again", forget.name),
            error,
        )),
    }
}

fn refused(why: &ForgetError) -> Result<Answer, CliError> {
    complain(&format!("smartnat-manager: refused: {why}"));
    Ok(Answer::No)
}

async fn session(source: &ObjectSource) -> Result<crate::cluster::Session, CliError> {
    connect(source).await.map_err(|error| match error {
        ConnectError::NoSource => CliError::Usage(
            "no API server: name the kubeconfig of the cluster by --kubeconfig FILE or KUBECONFIG (manifests have no instances)".to_owned(),
        ),
        other => CliError::failed("no way to the API server", other),
    })
}

fn text(name: &str, namespace: &str, done: &Forgotten, others: &[String]) -> String {
    let mut out = String::new();
    if done.lease {
        out += &format!("Lease {namespace}/{name} is deleted.\n");
    } else if !done.mappings.iter().any(|m| m.cleared) {
        out += &format!("Nothing is there of an instance {name}.\n");
        out += &match others {
            [] => format!(
                "No other is there either: no Lease in namespace {namespace}, no entry in a Mapping's status.\n"
            ),
            names => format!("There are: {}.\n", names.join(", ")),
        };
        if done.mappings.is_empty() {
            return out;
        }
    }
    let count = |n: usize| if n == 1 { "1 Mapping".to_owned() } else { format!("{n} Mappings") };
    let cleared = done.mappings.iter().filter(|m| m.cleared).count();
    let released = done.mappings.iter().filter(|m| m.released).count();
    out += &format!("{} cleared of what it said, {} released from deletion.\n", count(cleared), count(released));
    let rows: Vec<Vec<String>> = done
        .mappings
        .iter()
        .map(|m| {
            let what = match (m.cleared, m.released) {
                (true, true) => "cleared, released",
                (false, true) => "released",
                _ => "cleared",
            };
            vec![m.key.to_string(), what.to_owned()]
        })
        .collect();
    out + &table(&["MAPPING", "DONE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::forget::ForgottenMapping;
    use crate::model::ObjectKey;

    #[test]
    fn what_was_done_is_told_by_count_and_name() {
        let mapping =
            |name: &str, cleared, released| ForgottenMapping { key: ObjectKey::new("shop", name), cleared, released };
        let done = Forgotten {
            lease: true,
            mappings: vec![mapping("web", true, false), mapping("old", true, true), mapping("left", false, true)],
        };
        assert_eq!(
            text("border-1", "smartnat-system", &done, &[]),
            "Lease smartnat-system/border-1 is deleted.\n\
             2 Mappings cleared of what it said, 2 Mappings released from deletion.\n\
             MAPPING    DONE\n\
             shop/web   cleared\n\
             shop/old   cleared, released\n\
             shop/left  released\n"
        );
    }

    #[test]
    fn an_unknown_name_is_told_with_those_that_are_there() {
        let none = Forgotten::default();
        let text = |others: &[&str]| {
            let others: Vec<String> = others.iter().map(|s| (*s).to_owned()).collect();
            super::text("bordr", "ns", &none, &others)
        };
        assert_eq!(
            text(&["border-1", "border-2"]),
            "Nothing is there of an instance bordr.\nThere are: border-1, border-2.\n"
        );
        assert!(text(&[]).contains("no Lease in namespace ns"));
    }
}
