use std::path::Path;
use std::time::Duration;

use super::Finding;
use crate::apply::Tools;
use crate::apply::first_smartnat::{RT_TABLES, leftovers};
use crate::error_chain;

const GROUP: &str = "first";

/// Whether the first SmartNat left anything in the kernel.
pub(super) async fn findings(patience: Duration) -> Vec<Finding> {
    let found = leftovers(&Tools::new(patience), Path::new(RT_TABLES)).await;
    let told = found.map(|found| (!found.is_empty()).then(|| found.summary())).map_err(|e| error_chain(&e));
    vec![evaluate(told)]
}

/// `told`: what there is of it, if anything; or why that cannot be known.
fn evaluate(told: Result<Option<String>, String>) -> Finding {
    match told {
        Ok(None) => Finding::ok(GROUP, "nothing of the first SmartNat is in the kernel"),
        Ok(Some(summary)) => Finding::warn(
            GROUP,
            format!("the first SmartNat left {summary}"),
            "stop it for good, then run smartnat-manager cleanup --first-smartnat (docs/migration.md); the daemon may run",
        ),
        Err(why) => Finding::warn(
            GROUP,
            format!("whether the first SmartNat left anything cannot be seen: {why}"),
            "run check as root; if it is, do first what is said above of tables that cannot be read",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn leftovers_are_a_warning_that_names_the_command() {
        let finding = evaluate(Ok(Some("3 chains, 2000 policy rules".into())));
        assert!(finding.level == Level::Warn && finding.what.contains("2000 policy rules"), "{finding:?}");
        assert!(finding.remedy.contains("cleanup --first-smartnat"), "{finding:?}");
        assert_eq!(evaluate(Ok(None)).level, Level::Ok);
        let unseen = evaluate(Err("no".into()));
        assert!(unseen.level == Level::Warn && unseen.remedy.contains("tables that cannot be read"), "{unseen:?}");
    }
}
