//! The four ways to patch.

pub mod apply;
pub mod fields;
mod merge;
mod strategic;

use serde_json::Value;

use super::error::ApiError;

pub use merge::merge;
pub use strategic::strategic;

/// Applies an RFC 6902 JSON patch.
///
/// # Errors
/// 400 when it is no patch, 422 when an operation does not apply.
pub fn json(target: &mut Value, patch: Value) -> Result<(), ApiError> {
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|error| ApiError::bad_request(format!("error decoding JSON patch: {error}")))?;
    json_patch::patch(target, &patch).map_err(|error| ApiError {
        code: 422,
        reason: "Invalid",
        message: format!("the server rejected our request due to an error in our request: {error}"),
        details: None,
    })
}
