//! What is checked of a write before anything is done.

use serde_json::{Value, json};

use super::{
    super::{
        error::{ApiError, Cause},
        state::State,
        store::Key,
    },
    Write,
};

impl Write<'_> {
    pub(super) fn check_type(&self, object: &mut Value) -> Result<(), ApiError> {
        if !object.is_object() {
            return Err(ApiError::bad_request("the body must be an object"));
        }
        let wants = [("apiVersion", self.resource.api_version()), ("kind", self.resource.kind.clone())];
        for (field, want) in wants {
            let given = object[field].as_str().unwrap_or_default();
            if given.is_empty() {
                object[field] = want.into();
            } else if given != want {
                let message =
                    format!("the {field} in the data ({given}) does not match the expected {field} ({want})");
                return Err(ApiError::bad_request(message));
            }
        }
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        if self.resource.namespaced && !namespace.is_empty() && namespace != self.namespace {
            let message =
                "the namespace of the provided object does not match the namespace sent on the request";
            return Err(ApiError::bad_request(message));
        }
        Ok(())
    }

    pub(super) fn check_namespace(&self, state: &State, name: &str) -> Result<(), ApiError> {
        if !self.resource.namespaced {
            return Ok(());
        }
        let namespaces = state.registry.get("", "v1", "namespaces").ok_or_else(ApiError::unknown_path)?;
        let namespace = state.store.get(&namespaces.store_kind(), &Key::new("", self.namespace));
        let namespace = namespace.ok_or_else(|| ApiError::not_found(namespaces, self.namespace))?;
        if namespace["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            self.namespace
        );
        Err(ApiError::forbidden(self.resource, name, &why))
    }

    pub(super) fn check_preconditions(&self, name: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
        let both = |field: &str| {
            let new = new["metadata"][field].as_str().filter(|value| !value.is_empty());
            new.zip(old["metadata"][field].as_str())
        };
        if let Some((new, old)) = both("uid").filter(|(new, old)| new != old) {
            let why = format!("Precondition failed: UID in precondition: {new}, UID in object meta: {old}");
            return Err(ApiError::conflict(self.resource, name, &why));
        }
        match both("resourceVersion") {
            Some((new, old)) if new != old => Err(ApiError::modified(self.resource, name)),
            _ => Ok(()),
        }
    }

    pub(super) fn check_finalizers(&self, name: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
        if old["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let list = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let before = list(old);
        let added: Vec<_> = list(new).into_iter().filter(|finalizer| !before.contains(finalizer)).collect();
        if added.is_empty() {
            return Ok(());
        }
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {}",
            Value::Array(added)
        );
        Err(ApiError::invalid(self.resource, name, &[Cause::forbidden("metadata.finalizers", &why)]))
    }
}
