use super::{Answer, CliError};
pub(super) async fn run(_: crate::settings::Settings) -> Result<Answer, CliError> {
    Ok(Answer::Done)
}
