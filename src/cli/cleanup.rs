mod first_smartnat;

use clap::Args;

use super::{Answer, CliError, complain, say, status, world};
use crate::apply::{self, CleanupError, CleanupReport, LockError, Tools, WriterLock};
use crate::model::MarkLayout;
use crate::settings::LocalSettings;

#[derive(Debug, Args)]
pub(super) struct CleanupArgs {
    /// Also where the cluster would then be open to the external interfaces
    #[arg(long)]
    force: bool,
    /// Remove what the first SmartNat (2019, versions 1 and 2) left in the kernel, and nothing of this one; also while the daemon runs
    #[arg(long, conflicts_with = "force")]
    first_smartnat: bool,
    /// Only say what would be removed
    #[arg(long, requires = "first_smartnat")]
    dry_run: bool,
}

/// `mark_bits` as given: only the flows of the first SmartNat ask for it.
pub(super) async fn run(
    settings: LocalSettings,
    mark_bits: Option<String>,
    args: CleanupArgs,
) -> Result<Answer, CliError> {
    if args.first_smartnat {
        let given = mark_bits.filter(|text| !text.trim().is_empty());
        let marks = given.map_or(Ok(MarkLayout::default()), |text| text.trim().parse());
        let marks = marks.map_err(|e| CliError::Usage(format!("SNCTRLR_MARK_BITS (--mark-bits): {e}")))?;
        return first_smartnat::run(&settings, marks, args.dry_run).await;
    }
    let _lock = match WriterLock::take(&settings.state_dir) {
        Ok(lock) => lock,
        Err(held @ LockError::Held { .. }) => {
            complain(&format!("smartnat-manager: refused: {held}; it would put all back"));
            return Ok(Answer::No);
        }
        Err(error) => return Err(CliError::failed("nothing was removed", error)),
    };
    if status::daemon_answers(settings.monitor).await {
        let monitor = settings.monitor.local();
        complain(&format!(
            "smartnat-manager: refused: a daemon with another SNCTRLR_STATE_DIR runs (it answers at {monitor}) and would put all \
             back; stop it first (systemctl stop smartnat)"
        ));
        return Ok(Answer::No);
    }
    let host = world::host(None).await?;
    match apply::cleanup(Tools::new(settings.tool_timeout), &settings.state_dir, &host, args.force).await {
        Ok(report) => {
            say(&text(&report))?;
            Ok(Answer::Done)
        }
        Err(refused @ CleanupError::WouldOpen { .. }) => {
            complain(&format!("smartnat-manager: {refused}"));
            Ok(Answer::No)
        }
        Err(error) => Err(CliError::failed("cleanup stopped; what is left can be removed by running it again", error)),
    }
}

fn text(report: &CleanupReport) -> String {
    let w = &report.writes;
    let mut out = if w.is_empty() {
        "Nothing of SmartNat was there.\n".to_owned()
    } else {
        format!(
            "Removed {} chains, {} hooks, {} sets, {} routes, {} rules; {} kernel parameters are as before.\n",
            w.chains, w.hooks, w.sets, w.routes, w.rules, w.sysctls
        )
    };
    if report.forwarding {
        out += "Forwarding is on (net.ipv4.ip_forward=1), as it was before SmartNat or by somebody else: this box forwards \
                without a border now.\n";
    }
    if !report.stuck_sets.is_empty() {
        out += &format!("Foreign rules use these sets of ours, which stay: {}\n", report.stuck_sets.join(", "));
    }
    if !report.pinned_chains.is_empty() {
        out += &format!(
            "Foreign rules lead to these chains of ours, which stay, empty: {}\n",
            report.pinned_chains.join(", ")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Writes;

    #[test]
    fn what_was_removed_and_what_stays_is_told() {
        assert_eq!(text(&CleanupReport::default()), "Nothing of SmartNat was there.\n");
        let report = CleanupReport {
            writes: Writes { chains: 12, hooks: 5, ..Writes::default() },
            forwarding: true,
            stuck_sets: vec!["SN-EP".into()],
            pinned_chains: vec!["ipv4 nat SMARTNAT-DNAT".into()],
        };
        let text = text(&report);
        for part in ["Removed 12 chains, 5 hooks", "ip_forward=1", "SN-EP", "ipv4 nat SMARTNAT-DNAT"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
