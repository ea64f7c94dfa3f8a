use std::time::Duration;

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

/// Waits for the whole of a request, but not for ever.
pub async fn within<T>(limit: Duration, request: impl Future<Output = kube::Result<T>>) -> Result<T, RequestError> {
    match tokio::time::timeout(limit, request).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(RequestError::Silent(limit)),
    }
}
