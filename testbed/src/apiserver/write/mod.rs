//! Create, update, patch: what the real server's registry does around the store.

mod checks;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    admission, convert, crd,
    error::{ApiError, Cause},
    patch::{
        self,
        apply::{self, Manager, OnConflict},
    },
    request::Query,
    resource::Resource,
    schema::Schema,
    state::{State, is_definition},
    store::{Key, StoreError},
};

/// One write to one resource.
pub(super) struct Write<'a> {
    pub(super) resource: &'a Resource,
    pub(super) namespace: &'a str,
    pub(super) query: &'a Query,
    /// The field manager, from the query or the user agent.
    pub(super) manager: String,
    pub(super) on_status: bool,
    pub(super) now: Timestamp,
}

/// What a write led to.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) code: u16,
    pub(super) object: Arc<Value>,
    /// For the `Warning` header.
    pub(super) warnings: Vec<String>,
}

/// How `managedFields` come about.
#[derive(Clone, Copy, PartialEq)]
enum Ownership {
    /// By comparing with what was there.
    Compared,
    /// The apply has written them.
    Applied,
}

impl Write<'_> {
    pub(super) fn create(&self, state: &mut State, mut object: Value) -> Result<Written, ApiError> {
        self.check_type(&mut object)?;
        let metadata = &mut object["metadata"];
        if metadata["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if metadata["name"].as_str().is_none_or(str::is_empty)
            && let Some(prefix) = metadata["generateName"].as_str().filter(|prefix| !prefix.is_empty())
        {
            metadata["name"] = format!("{prefix}{}", state.random.suffix()).into();
        }
        self.create_owned(state, object, Ownership::Compared)
    }

    fn create_owned(
        &self,
        state: &mut State,
        mut object: Value,
        how: Ownership,
    ) -> Result<Written, ApiError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(ApiError::invalid(self.resource, "", &[cause]));
        }
        self.check_namespace(state, &name)?;
        if self.resource.has_status && !self.resource.is_core("nodes") {
            remove(&mut object, "status");
        }
        let managed = object["metadata"]["managedFields"].take();
        let metadata = &mut object["metadata"];
        for server_owned in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"] {
            remove(metadata, server_owned);
        }
        metadata["uid"] = state.random.uid().into();
        metadata["creationTimestamp"] = self.now.to_string().into();
        metadata["generation"] = json!(1);
        if self.resource.namespaced {
            metadata["namespace"] = self.namespace.into();
        } else {
            remove(metadata, "namespace");
        }
        let warnings = self.admit(state, &mut object, None)?;
        match how {
            Ownership::Applied => object["metadata"]["managedFields"] = managed,
            Ownership::Compared => {
                apply::track(None, &mut object, self.resource.schema.root(), &self.field_manager())
            }
        }
        let written = |object| Written { code: 201, object, warnings };
        if self.is_dry_run() {
            return Ok(written(Arc::new(object)));
        }
        self.to_storage(state, &mut object);
        let key = Key::new(self.key_namespace(), name.clone());
        match state.create(&self.resource.store_kind(), key, object) {
            Ok(object) => Ok(written(object)),
            Err(_) => Err(ApiError::already_exists(self.resource, &name)),
        }
    }

    pub(super) fn update(
        &self,
        state: &mut State,
        name: &str,
        mut object: Value,
    ) -> Result<Written, ApiError> {
        self.check_type(&mut object)?;
        let old = self.current(state, name)?;
        let given = object["metadata"]["name"].as_str().unwrap_or_default();
        if given != name {
            let message =
                format!("the name of the object ({given}) does not match the name on the URL ({name})");
            return Err(ApiError::bad_request(message));
        }
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if version.is_empty() && self.resource.is_custom() {
            let cause =
                Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
            return Err(ApiError::invalid(self.resource, name, &[cause]));
        }
        self.replace(state, name, &old, object, Ownership::Compared)
    }

    pub(super) fn patch(
        &self,
        state: &mut State,
        name: &str,
        kind: &str,
        body: Value,
    ) -> Result<Written, ApiError> {
        let old = self.current(state, name)?;
        let mut new = old.clone();
        match kind {
            "application/json-patch+json" => patch::json(&mut new, body)?,
            "application/merge-patch+json" => patch::merge(&mut new, &body),
            "application/strategic-merge-patch+json" if !self.resource.is_custom() => {
                patch::strategic(&mut new, &body, Some(self.resource.schema.root()));
            }
            _ => {
                let message = format!(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml{} (got {kind:?})",
                    if self.resource.is_custom() { "" } else { ", application/strategic-merge-patch+json" },
                );
                return Err(ApiError::unsupported_media_type(message));
            }
        }
        self.replace(state, name, &old, new, Ownership::Compared)
    }

    /// A server-side apply; makes the object where there is none.
    pub(super) fn apply(
        &self,
        state: &mut State,
        name: &str,
        mut config: Value,
    ) -> Result<Written, ApiError> {
        if self.query.get("fieldManager").is_none() {
            let cause = Cause::required("fieldManager", "is required for apply patch");
            return Err(ApiError::invalid_options("PatchOptions", &cause));
        }
        self.check_type(&mut config)?;
        let metadata = &mut config["metadata"];
        if metadata.get("managedFields").is_some_and(|fields| !fields.is_null()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        metadata["name"] = name.into();
        let schema = &self.resource.schema;
        let unknown = schema.prune(&mut config);
        if let Some(field) = unknown.first() {
            let message = format!(
                "failed to create typed patch object ({name}; {}, Kind={}): .{field}: field not declared in schema",
                self.resource.api_version(),
                self.resource.kind
            );
            return Err(ApiError::internal(message));
        }
        let on_conflict = if self.query.flag("force") { OnConflict::Force } else { OnConflict::Refuse };
        let (live, exists) = match self.current(state, name) {
            Ok(live) => (live, true),
            Err(error) if error.code == 404 && !self.on_status => {
                let metadata = json!({"name": name});
                (
                    json!({"apiVersion": self.resource.api_version(), "kind": self.resource.kind, "metadata": metadata}),
                    false,
                )
            }
            Err(error) => return Err(error),
        };
        let merged = apply::apply(&live, &config, schema.root(), &self.field_manager(), on_conflict)
            .map_err(ApiError::apply_conflict)?;
        if exists {
            self.replace(state, name, &live, merged, Ownership::Applied)
        } else {
            self.create_owned(state, merged, Ownership::Applied)
        }
    }

    /// Puts `new` in the place of `old`.
    fn replace(
        &self,
        state: &mut State,
        name: &str,
        old: &Value,
        mut new: Value,
        how: Ownership,
    ) -> Result<Written, ApiError> {
        self.check_preconditions(name, old, &new)?;
        let managed = new["metadata"]["managedFields"].take();
        self.restrict(old, &mut new);
        let warnings = self.admit(state, &mut new, Some(old))?;
        self.check_finalizers(name, old, &new)?;
        if what_generation_counts(old) != what_generation_counts(&new) {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            new["metadata"]["generation"] = generation.into();
        }
        match how {
            Ownership::Applied => new["metadata"]["managedFields"] = managed,
            Ownership::Compared => {
                apply::track(Some(old), &mut new, self.resource.schema.root(), &self.field_manager());
            }
        }
        let written = |object| Written { code: 200, object, warnings };
        if new == *old || self.is_dry_run() {
            return Ok(written(Arc::new(new)));
        }
        self.to_storage(state, &mut new);
        let (kind, key) = (self.resource.store_kind(), Key::new(self.key_namespace(), name));
        let missing = |_: StoreError| ApiError::not_found(self.resource, name);
        if is_released(&new) {
            state.remove(&kind, &key).map_err(missing)?;
            return Ok(written(Arc::new(new)));
        }
        let object = state.replace(&kind, &key, new).map_err(missing)?;
        if self.resource.is_core("namespaces") {
            state.finish_namespace(name);
        }
        Ok(written(object))
    }

    /// The stored object in this version.
    pub(super) fn current(&self, state: &State, name: &str) -> Result<Value, ApiError> {
        let key = Key::new(self.key_namespace(), name);
        let found = state.store.get(&self.resource.store_kind(), &key);
        let found = found.ok_or_else(|| ApiError::not_found(self.resource, name))?;
        Ok(convert::to_version(found, self.resource).into_owned())
    }

    /// Leaves of a write what its path may change: on the status path the status, elsewhere the rest.
    fn restrict(&self, old: &Value, new: &mut Value) {
        if self.on_status {
            let status = new["status"].take();
            let metadata = new["metadata"].take();
            *new = old.clone();
            new["status"] = status;
            if new["status"].is_null() {
                remove(new, "status");
            }
            // Custom resources' metadata is not written on this path.
            if !self.resource.is_custom() {
                new["metadata"] = metadata;
            }
        } else if self.resource.has_status {
            match old.get("status") {
                Some(status) => new["status"] = status.clone(),
                None => remove(new, "status"),
            }
        }
        remove(&mut new["metadata"], "managedFields");
        let server_owned = [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ];
        for field in server_owned {
            match old["metadata"].get(field) {
                Some(value) => new["metadata"][field] = value.clone(),
                None => remove(&mut new["metadata"], field),
            }
        }
    }

    /// Prunes, completes, defaults and validates; gives the warnings.
    fn admit(&self, state: &State, object: &mut Value, old: Option<&Value>) -> Result<Vec<String>, ApiError> {
        let schema: &Schema = &self.resource.schema;
        let unknown = schema.prune(object);
        let unknown: Vec<_> = unknown.iter().map(|field| format!("unknown field {field:?}")).collect();
        let warnings = match self.query.get("fieldValidation") {
            Some("Strict") if !unknown.is_empty() => {
                let message = format!("strict decoding error: {}", unknown.join(", "));
                let what = format!("{} in version {:?}", self.resource.kind, self.resource.version);
                return Err(ApiError::bad_request(format!(
                    "{what} cannot be handled as a {}: {message}",
                    self.resource.kind
                )));
            }
            Some("Ignore") => Vec::new(),
            _ => unknown,
        };
        schema.default(object);
        let mut causes = schema.validate(object, old);
        causes.extend(admission::check(self.resource, object));
        // What completes an object builds on its types being right.
        if causes.is_empty() {
            admission::complete(self.resource, object, old, &state.store);
            if is_definition(&self.resource.store_kind()) {
                crd::establish(object, self.now);
                causes.extend(crd::resources(object).err().into_iter().flatten());
            }
        }
        if causes.is_empty() {
            return Ok(warnings);
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Err(ApiError::invalid(self.resource, name, &causes))
    }

    fn to_storage(&self, state: &State, object: &mut Value) {
        if let Some(stored) = state.registry.stored_as(&self.resource.store_kind()) {
            convert::in_place(object, stored);
        }
    }

    pub(super) fn key_namespace(&self) -> &str {
        if self.resource.namespaced { self.namespace } else { "" }
    }

    pub(super) fn is_dry_run(&self) -> bool {
        self.query.get("dryRun").is_some()
    }

    fn field_manager(&self) -> Manager<'_> {
        Manager {
            name: &self.manager,
            subresource: self.on_status.then_some("status"),
            api_version: self.resource.api_version(),
            now: self.now,
        }
    }
}

/// All but metadata and status.
fn what_generation_counts(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields
        .filter(|(name, _)| !["metadata", "status", "apiVersion", "kind"].contains(&name.as_str()))
        .collect()
}

/// Whether an object that is being deleted has nothing left to wait for.
fn is_released(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let waits = metadata["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
    let grace = metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    // A namespace goes when its content has gone.
    let kept_by_content = object["kind"] == "Namespace" && object["apiVersion"] == "v1";
    !metadata["deletionTimestamp"].is_null() && !waits && grace == 0 && !kept_by_content
}

/// Removes a field.
pub(super) fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}
