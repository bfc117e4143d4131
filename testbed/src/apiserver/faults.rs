//! What a test can make go wrong.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{error::ApiError, random::Random, request::Verb};

/// A handle on one server's faults. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Settings>>);

#[derive(Debug)]
struct Settings {
    latency: Duration,
    error_rate: f64,
    conflicts: u32,
    outage: bool,
    random: Random,
}

impl Default for Settings {
    fn default() -> Self {
        let random = Random::seeded(0);
        Self { latency: Duration::ZERO, error_rate: 0.0, conflicts: 0, outage: false, random }
    }
}

/// The server is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server is down: an outage was asked for")]
pub struct Outage;

/// What a request meets before it is looked at.
pub(super) enum Verdict {
    Proceed,
    Refuse(ApiError),
}

impl Faults {
    /// Every request takes this much longer.
    pub fn set_latency(&self, latency: Duration) {
        self.settings().latency = latency;
    }

    /// This share of requests, 0.0–1.0, is answered with 500 and does nothing; which ones, the seed says.
    pub fn set_error_rate(&self, rate: f64, seed: u64) {
        let mut settings = self.settings();
        settings.error_rate = rate;
        settings.random = Random::seeded(seed);
    }

    /// The next `count` updates and patches are answered with a conflict and do nothing.
    pub fn inject_conflicts(&self, count: u32) {
        self.settings().conflicts = count;
    }

    /// No request is answered from now on: connections are closed, in-process calls fail.
    pub(super) fn begin_outage(&self) {
        self.settings().outage = true;
    }

    /// The server is back, with all it had.
    pub fn end_outage(&self) {
        self.settings().outage = false;
    }

    /// Nothing goes wrong any more.
    pub fn clear(&self) {
        *self.settings() = Settings::default();
    }

    pub(super) fn is_out(&self) -> bool {
        self.settings().outage
    }

    /// Waits, and decides what a request meets.
    pub(super) async fn meet(&self, verb: Option<Verb>) -> Result<Verdict, Outage> {
        let latency = self.settings().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut settings = self.settings();
        if settings.outage {
            return Err(Outage);
        }
        let rate = settings.error_rate;
        if rate > 0.0 && settings.random.chance(rate) {
            return Ok(Verdict::Refuse(ApiError::internal("Internal error occurred: injected by a test")));
        }
        if settings.conflicts > 0 && matches!(verb, Some(Verb::Update | Verb::Patch)) {
            settings.conflicts -= 1;
            let message = "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again";
            let reason = "Conflict";
            return Ok(Verdict::Refuse(ApiError {
                code: 409,
                reason,
                message: message.to_owned(),
                details: None,
            }));
        }
        Ok(Verdict::Proceed)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
