//! Whether the API answers at all: one voice for the watchers that lose it together.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::{Said, Update, convert};

/// Between two questions while the API does not answer.
const PAUSE: Duration = Duration::from_secs(2);

/// What an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks once at the start, and whenever someone doubts, until there is an answer.
pub(super) async fn ask(client: Client, tx: mpsc::Sender<Said>, doubt: Arc<Notify>) {
    let mut said: Option<Result<(), String>> = None;
    loop {
        let answer = match timeout(PATIENCE, client.apiserver_version()).await {
            // A refusal is an answer.
            Ok(Ok(_) | Err(kube::Error::Api(_))) => Ok(()),
            Ok(Err(error)) => Err(convert::words(&error)),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let reached = answer.is_ok();
        // While it stays away the words may change (refused, timed out); the first say enough.
        if said.as_ref().map(Result::is_ok) != Some(reached) {
            said = Some(answer.clone());
            if tx.send(Update::Api(answer).into()).await.is_err() {
                return;
            }
        }
        if reached {
            doubt.notified().await;
        } else {
            sleep(PAUSE).await;
        }
    }
}
