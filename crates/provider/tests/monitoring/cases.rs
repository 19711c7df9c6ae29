//! For every alert, series that make it fire and series that do not: one value a minute, looked at
//! after half an hour. `1x3` is a 1 and three more, `0+2x3` grows by 2, `_` is no sample.

/// What is tried with one alert.
pub(crate) struct Case {
    pub(crate) alert: &'static str,
    /// Of the alert that fires, beside its name and severity.
    pub(crate) labels: &'static str,
    pub(crate) firing: Series,
    /// Each of them leaves the alert silent.
    pub(crate) silent: &'static [Series],
}

type Series = &'static [(&'static str, &'static str)];

pub(crate) const CASES: &[Case] = &[
    Case {
        alert: "OpenBaoKMSSocketFault",
        labels: r#"instance="n1",job="kms",reason="mode""#,
        firing: &[(
            r#"openbao_kms_socket_fault{job="kms",instance="n1",reason="mode"}"#,
            "_x20 1x20",
        )],
        silent: &[&[(
            r#"openbao_kms_socket_fault{job="kms",instance="n1",reason="mode"}"#,
            "1x20 _x20",
        )]],
    },
    Case {
        alert: "OpenBaoKMSSocketFault",
        labels: r#"instance="n1",job="kms",reason="in_use""#,
        firing: &[(
            r#"openbao_kms_legacy_socket_fault{job="kms",instance="n1",reason="in_use"}"#,
            "_x20 1x20",
        )],
        silent: &[&[(
            r#"openbao_kms_legacy_socket_fault{job="kms",instance="n1",reason="in_use"}"#,
            "1x20 _x20",
        )]],
    },
    Case {
        alert: "OpenBaoKMSStateDiskFull",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"openbao_kms_state_free_bytes{job="kms",instance="n1"}"#,
                "1e9x40",
            ),
            (
                r#"openbao_kms_state_free_inodes{job="kms",instance="n1"}"#,
                "1000x10 99x30",
            ),
        ],
        silent: &[
            &[(
                r#"openbao_kms_state_free_bytes{job="kms",instance="n1"}"#,
                "1e9x40",
            )],
            &[(
                r#"openbao_kms_state_free_bytes{job="kms",instance="n1"}"#,
                "1e9x27 0x20",
            )],
        ],
    },
    Case {
        alert: "OpenBaoKMSNotReady",
        labels: r#"instance="n1",job="kms""#,
        firing: &[(r#"openbao_kms_ready{job="kms",instance="n1"}"#, "1x20 0x20")],
        silent: &[
            &[(r#"openbao_kms_ready{job="kms",instance="n1"}"#, "1x40")],
            &[(r#"openbao_kms_ready{job="kms",instance="n1"}"#, "1x28 0x20")],
        ],
    },
    Case {
        alert: "OpenBaoKMSStatusCacheStale",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"openbao_kms_status_cache_age_seconds{job="kms",instance="n1"}"#,
                "130x40",
            ),
            (
                r#"openbao_kms_status_max_staleness_seconds{job="kms",instance="n1"}"#,
                "120x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_status_cache_age_seconds{job="kms",instance="n1"}"#,
                    "130x40",
                ),
                (
                    r#"openbao_kms_status_max_staleness_seconds{job="kms",instance="n1"}"#,
                    "600x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_status_cache_age_seconds{job="kms",instance="n1"}"#,
                    "30x40",
                ),
                (
                    r#"openbao_kms_status_max_staleness_seconds{job="kms",instance="n1"}"#,
                    "120x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSCircuitBreakerOpen",
        labels: r#"instance="n1",job="kms""#,
        firing: &[(
            r#"openbao_kms_circuit_breaker_state{job="kms",instance="n1"}"#,
            "1x40",
        )],
        silent: &[&[(
            r#"openbao_kms_circuit_breaker_state{job="kms",instance="n1"}"#,
            "0x40",
        )]],
    },
    Case {
        alert: "OpenBaoKMSMetadataProbeFailing",
        labels: r#"instance="n1",job="kms",status="sealed""#,
        firing: &[
            (
                r#"openbao_kms_transit_metadata_observation_total{job="kms",instance="n1",status="sealed"}"#,
                "0x20 1+2x20",
            ),
            (
                r#"openbao_kms_transit_metadata_observation_total{job="kms",instance="n1",status="ok"}"#,
                "0+2x40",
            ),
        ],
        silent: &[&[
            (
                r#"openbao_kms_transit_metadata_observation_total{job="kms",instance="n1",status="sealed"}"#,
                "7x40",
            ),
            (
                r#"openbao_kms_transit_metadata_observation_total{job="kms",instance="n1",status="ok"}"#,
                "0+2x40",
            ),
        ]],
    },
    Case {
        alert: "OpenBaoKMSDeepProbeFailing",
        labels: r#"instance="n1",job="kms",reason="deep_probe_failed""#,
        firing: &[(
            r#"openbao_kms_readiness_reason{job="kms",instance="n1",reason="deep_probe_failed"}"#,
            "_x20 1x20",
        )],
        silent: &[
            &[(
                r#"openbao_kms_readiness_reason{job="kms",instance="n1",reason="deep_probe_pending"}"#,
                "1x40",
            )],
            &[(
                r#"openbao_kms_readiness_reason{job="kms",instance="n1",reason="deep_probe_failed"}"#,
                "1x20 _x20",
            )],
        ],
    },
    Case {
        alert: "OpenBaoKMSKeyOrStateRefused",
        labels: r#"instance="n1",job="kms",reason="version_rollback""#,
        firing: &[(
            r#"openbao_kms_readiness_reason{job="kms",instance="n1",reason="version_rollback"}"#,
            "_x20 1x20",
        )],
        silent: &[&[(
            r#"openbao_kms_readiness_reason{job="kms",instance="n1",reason="metadata_read_failed"}"#,
            "1x40",
        )]],
    },
    Case {
        alert: "OpenBaoKMSStateSaveFailing",
        labels: r#"instance="n1",job="kms",reason="state_save_failed""#,
        firing: &[(
            r#"openbao_kms_readiness_reason{job="kms",instance="n1",reason="state_save_failed"}"#,
            "_x20 1x20",
        )],
        silent: &[&[(
            r#"openbao_kms_readiness_reason{job="kms",instance="n1",reason="status_stale"}"#,
            "1x40",
        )]],
    },
    Case {
        alert: "OpenBaoKMSRotationPersistenceDegraded",
        labels: r#"instance="n1",job="kms""#,
        firing: &[(
            r#"openbao_kms_rotation_persistence_degraded{job="kms",instance="n1"}"#,
            "1x40",
        )],
        silent: &[&[(
            r#"openbao_kms_rotation_persistence_degraded{job="kms",instance="n1"}"#,
            "0x28 1x10",
        )]],
    },
    Case {
        alert: "OpenBaoKMSOpenBaoSealed",
        labels: r#"instance="n1",job="kms""#,
        firing: &[(
            r#"openbao_kms_openbao_requests_total{job="kms",instance="n1",operation="transit_metadata_read",status="sealed"}"#,
            "_x24 1+1x20",
        )],
        silent: &[&[
            (
                r#"openbao_kms_openbao_requests_total{job="kms",instance="n1",operation="transit_metadata_read",status="sealed"}"#,
                "5x40",
            ),
            (
                r#"openbao_kms_openbao_requests_total{job="kms",instance="n1",operation="transit_metadata_read",status="timeout"}"#,
                "0+1x40",
            ),
        ]],
    },
    Case {
        alert: "OpenBaoKMSOpenBaoErrorRateHigh",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"openbao_kms_openbao_requests_total{job="kms",instance="n1",operation="transit_encrypt",status="ok"}"#,
                "0+90x40",
            ),
            (
                r#"openbao_kms_openbao_requests_total{job="kms",instance="n1",operation="transit_encrypt",status="timeout"}"#,
                "0+10x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_openbao_requests_total{job="kms",instance="n1",operation="transit_encrypt",status="ok"}"#,
                    "0+90x40",
                ),
                (
                    r#"openbao_kms_openbao_requests_total{job="kms",instance="n1",operation="transit_encrypt",status="permission_denied"}"#,
                    "0+10x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_openbao_requests_total{job="kms",instance="n1",operation="transit_encrypt",status="ok"}"#,
                    "0+99x40",
                ),
                (
                    r#"openbao_kms_openbao_requests_total{job="kms",instance="n1",operation="transit_encrypt",status="timeout"}"#,
                    "0+1x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSErrorRateHigh",
        labels: r#"instance="n1",job="kms",method="decrypt""#,
        firing: &[
            (
                r#"openbao_kms_grpc_requests_total{job="kms",instance="n1",method="decrypt",status="ok"}"#,
                "0+90x40",
            ),
            (
                r#"openbao_kms_grpc_requests_total{job="kms",instance="n1",method="decrypt",status="unavailable"}"#,
                "0+10x40",
            ),
            (
                r#"openbao_kms_grpc_requests_total{job="kms",instance="n1",method="encrypt",status="ok"}"#,
                "0+90x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_grpc_requests_total{job="kms",instance="n1",method="decrypt",status="ok"}"#,
                    "0+90x40",
                ),
                (
                    r#"openbao_kms_grpc_requests_total{job="kms",instance="n1",method="decrypt",status="canceled"}"#,
                    "0+10x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_grpc_requests_total{job="kms",instance="n1",method="status",status="ok"}"#,
                    "0+1x40",
                ),
                (
                    r#"openbao_kms_grpc_requests_total{job="kms",instance="n1",method="status",status="internal"}"#,
                    "0+1x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSPolicyDenied",
        labels: r#"instance="n1",job="kms",method="encrypt""#,
        firing: &[(
            r#"openbao_kms_grpc_errors_total{job="kms",instance="n1",error_class="transit_policy_denied",method="encrypt"}"#,
            "0x25 1x20",
        )],
        silent: &[
            &[(
                r#"openbao_kms_grpc_errors_total{job="kms",instance="n1",error_class="transit_policy_denied",method="encrypt"}"#,
                "1x40",
            )],
            &[(
                r#"openbao_kms_grpc_errors_total{job="kms",instance="n1",error_class="timeout",method="encrypt"}"#,
                "0x25 1x20",
            )],
        ],
    },
    Case {
        alert: "OpenBaoKMSAuthFailures",
        labels: r#"instance="n1",job="kms",status="jwt_expired""#,
        firing: &[
            (
                r#"openbao_kms_auth_login_total{job="kms",instance="n1",status="jwt_expired"}"#,
                "0x26 1x20",
            ),
            (
                r#"openbao_kms_auth_login_total{job="kms",instance="n1",status="ok"}"#,
                "1x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_auth_renewal_total{job="kms",instance="n1",status="error"}"#,
                    "0x26 1x20",
                ),
                (
                    r#"openbao_kms_auth_login_total{job="kms",instance="n1",status="ok"}"#,
                    "1x26 2x20",
                ),
            ],
            &[
                (
                    r#"openbao_kms_auth_login_total{job="kms",instance="n1",status="jwt_expired"}"#,
                    "3x40",
                ),
                (
                    r#"openbao_kms_auth_login_total{job="kms",instance="n1",status="ok"}"#,
                    "1x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSTokenTTLShort",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"openbao_kms_token_ttl_seconds{job="kms",instance="n1"}"#,
                "100x40",
            ),
            (
                r#"openbao_kms_login_before_token_expiry_seconds{job="kms",instance="n1"}"#,
                "300x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_token_ttl_seconds{job="kms",instance="n1"}"#,
                    "290x40",
                ),
                (
                    r#"openbao_kms_login_before_token_expiry_seconds{job="kms",instance="n1"}"#,
                    "300x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_token_ttl_seconds{job="kms",instance="n1"}"#,
                    "100x40",
                ),
                (
                    r#"openbao_kms_login_before_token_expiry_seconds{job="kms",instance="n1"}"#,
                    "120x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSTokenFileEnding",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"openbao_kms_credential_ttl_seconds{job="kms",instance="n1"}"#,
                "1200x40",
            ),
            (
                r#"openbao_kms_credential_min_remaining_seconds{job="kms",instance="n1"}"#,
                "300x40",
            ),
            (
                r#"openbao_kms_auth_method_info{job="kms",instance="n1",method="token"}"#,
                "1x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_credential_ttl_seconds{job="kms",instance="n1"}"#,
                    "7200x40",
                ),
                (
                    r#"openbao_kms_credential_min_remaining_seconds{job="kms",instance="n1"}"#,
                    "300x40",
                ),
                (
                    r#"openbao_kms_auth_method_info{job="kms",instance="n1",method="token"}"#,
                    "1x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_credential_ttl_seconds{job="kms",instance="n1"}"#,
                    "1200x40",
                ),
                (
                    r#"openbao_kms_credential_min_remaining_seconds{job="kms",instance="n1"}"#,
                    "300x40",
                ),
                (
                    r#"openbao_kms_auth_method_info{job="kms",instance="n1",method="jwt"}"#,
                    "1x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSFallbackInUse",
        labels: r#"instance="n1",job="kms""#,
        firing: &[(
            r#"openbao_kms_auth_fallback_in_use{job="kms",instance="n1"}"#,
            "1x40",
        )],
        silent: &[&[(
            r#"openbao_kms_auth_fallback_in_use{job="kms",instance="n1"}"#,
            "0x40",
        )]],
    },
    Case {
        alert: "OpenBaoKMSJWTExpiring",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"openbao_kms_jwt_ttl_seconds{job="kms",instance="n1"}"#,
                "0x40",
            ),
            (
                r#"openbao_kms_credential_min_remaining_seconds{job="kms",instance="n1"}"#,
                "120x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_jwt_ttl_seconds{job="kms",instance="n1"}"#,
                    "600x40",
                ),
                (
                    r#"openbao_kms_credential_min_remaining_seconds{job="kms",instance="n1"}"#,
                    "120x40",
                ),
            ],
            &[(
                r#"openbao_kms_credential_min_remaining_seconds{job="kms",instance="n1"}"#,
                "120x40",
            )],
        ],
    },
    Case {
        alert: "OpenBaoKMSFileUnreadable",
        labels: r#"instance="n1",job="kms",setting="auth.jwt.jwtFile""#,
        firing: &[(
            r#"openbao_kms_file_unreadable{job="kms",instance="n1",setting="auth.jwt.jwtFile"}"#,
            "_x20 1x20",
        )],
        silent: &[&[(
            r#"openbao_kms_file_unreadable{job="kms",instance="n1",setting="auth.jwt.jwtFile"}"#,
            "1x20 _x20",
        )]],
    },
    Case {
        alert: "OpenBaoKMSCertificateExpiring",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"openbao_kms_certificate_ttl_seconds{job="kms",instance="n1"}"#,
                "100x40",
            ),
            (
                r#"openbao_kms_credential_min_remaining_seconds{job="kms",instance="n1"}"#,
                "120x40",
            ),
            (
                r#"openbao_kms_auth_method_info{job="kms",instance="n1",method="cert"}"#,
                "1x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_certificate_ttl_seconds{job="kms",instance="n1"}"#,
                    "0x40",
                ),
                (
                    r#"openbao_kms_credential_min_remaining_seconds{job="kms",instance="n1"}"#,
                    "120x40",
                ),
                (
                    r#"openbao_kms_auth_method_info{job="kms",instance="n1",method="jwt"}"#,
                    "1x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_certificate_ttl_seconds{job="kms",instance="n1"}"#,
                    "86400x40",
                ),
                (
                    r#"openbao_kms_credential_min_remaining_seconds{job="kms",instance="n1"}"#,
                    "120x40",
                ),
                (
                    r#"openbao_kms_auth_method_info{job="kms",instance="n1",method="cert"}"#,
                    "1x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSClockOffset",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"openbao_kms_openbao_clock_offset_seconds{job="kms",instance="n1"}"#,
                "-20x40",
            ),
            (
                r#"openbao_kms_clock_skew_leeway_seconds{job="kms",instance="n1"}"#,
                "30x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_openbao_clock_offset_seconds{job="kms",instance="n1"}"#,
                    "-20x40",
                ),
                (
                    r#"openbao_kms_clock_skew_leeway_seconds{job="kms",instance="n1"}"#,
                    "60x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_openbao_clock_offset_seconds{job="kms",instance="n1"}"#,
                    "1x40",
                ),
                (
                    r#"openbao_kms_clock_skew_leeway_seconds{job="kms",instance="n1"}"#,
                    "0x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSKeyIDHashDiverged",
        labels: r#"fingerprint="one""#,
        firing: &[
            (
                r#"openbao_kms_status_key_id_hash{job="kms",instance="n1",hash="a"}"#,
                "1x40",
            ),
            (
                r#"openbao_kms_status_key_id_hash{job="kms",instance="n2",hash="b"}"#,
                "1x40",
            ),
            (
                r#"openbao_kms_identity_info{job="kms",instance="n1",fingerprint="one"}"#,
                "1x40",
            ),
            (
                r#"openbao_kms_identity_info{job="kms",instance="n2",fingerprint="one"}"#,
                "1x40",
            ),
            (
                r#"openbao_kms_rotation_state{job="kms",instance="n1",state="pending"}"#,
                "0x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_status_key_id_hash{job="kms",instance="n1",hash="a"}"#,
                    "1x40",
                ),
                (
                    r#"openbao_kms_status_key_id_hash{job="kms",instance="n2",hash="b"}"#,
                    "1x40",
                ),
                (
                    r#"openbao_kms_identity_info{job="kms",instance="n1",fingerprint="one"}"#,
                    "1x40",
                ),
                (
                    r#"openbao_kms_identity_info{job="kms",instance="n2",fingerprint="two"}"#,
                    "1x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_status_key_id_hash{job="kms",instance="n1",hash="a"}"#,
                    "1x40",
                ),
                (
                    r#"openbao_kms_status_key_id_hash{job="kms",instance="n2",hash="b"}"#,
                    "1x40",
                ),
                (
                    r#"openbao_kms_identity_info{job="kms",instance="n1",fingerprint="one"}"#,
                    "1x40",
                ),
                (
                    r#"openbao_kms_identity_info{job="kms",instance="n2",fingerprint="one"}"#,
                    "1x40",
                ),
                (
                    r#"openbao_kms_rotation_state{job="kms",instance="n1",state="pending"}"#,
                    "0x40",
                ),
                (
                    r#"openbao_kms_rotation_state{job="kms",instance="n2",state="pending"}"#,
                    "1x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSRotationPendingStuck",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"openbao_kms_rotation_pending_since_timestamp_seconds{job="kms",instance="n1"}"#,
                "-900x40",
            ),
            (
                r#"openbao_kms_rotation_expected_wait_seconds{job="kms",instance="n1"}"#,
                "210x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_rotation_pending_since_timestamp_seconds{job="kms",instance="n1"}"#,
                    "0x40",
                ),
                (
                    r#"openbao_kms_rotation_expected_wait_seconds{job="kms",instance="n1"}"#,
                    "210x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_rotation_pending_since_timestamp_seconds{job="kms",instance="n1"}"#,
                    "-900x40",
                ),
                (
                    r#"openbao_kms_rotation_expected_wait_seconds{job="kms",instance="n1"}"#,
                    "3600x40",
                ),
            ],
            &[(
                r#"openbao_kms_rotation_expected_wait_seconds{job="kms",instance="n1"}"#,
                "210x40",
            )],
        ],
    },
    Case {
        alert: "OpenBaoKMSAADValidationErrors",
        labels: r#"instance="n1",job="kms",reason="aad_mismatch""#,
        firing: &[(
            r#"openbao_kms_aad_validation_errors_total{job="kms",instance="n1",reason="aad_mismatch"}"#,
            "0x20 1x20",
        )],
        silent: &[&[(
            r#"openbao_kms_aad_validation_errors_total{job="kms",instance="n1",reason="aad_mismatch"}"#,
            "1x40",
        )]],
    },
    Case {
        alert: "OpenBaoKMSUnknownKeyIDErrors",
        labels: r#"instance="n1",job="kms""#,
        firing: &[(
            r#"openbao_kms_decrypt_key_id_errors_total{job="kms",instance="n1",reason="key_id_unknown"}"#,
            "0x20 1x20",
        )],
        silent: &[&[
            (
                r#"openbao_kms_decrypt_key_id_errors_total{job="kms",instance="n1",reason="key_id_unknown"}"#,
                "1x40",
            ),
            (
                r#"openbao_kms_decrypt_key_id_errors_total{job="kms",instance="n1",reason="key_id_malformed"}"#,
                "0x20 1x20",
            ),
        ]],
    },
    Case {
        alert: "OpenBaoKMSGRPCLatencyHigh",
        labels: r#"instance="n1",job="kms",method="decrypt""#,
        firing: &[
            (
                r#"openbao_kms_grpc_duration_seconds_bucket{job="kms",instance="n1",le="0.064",method="decrypt"}"#,
                "0+90x40",
            ),
            (
                r#"openbao_kms_grpc_duration_seconds_bucket{job="kms",instance="n1",le="0.128",method="decrypt"}"#,
                "0+95x40",
            ),
            (
                r#"openbao_kms_grpc_duration_seconds_bucket{job="kms",instance="n1",le="0.256",method="decrypt"}"#,
                "0+100x40",
            ),
            (
                r#"openbao_kms_grpc_duration_seconds_bucket{job="kms",instance="n1",le="+Inf",method="decrypt"}"#,
                "0+100x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_grpc_duration_seconds_bucket{job="kms",instance="n1",le="0.064",method="decrypt"}"#,
                    "0+100x40",
                ),
                (
                    r#"openbao_kms_grpc_duration_seconds_bucket{job="kms",instance="n1",le="+Inf",method="decrypt"}"#,
                    "0+100x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_grpc_duration_seconds_bucket{job="kms",instance="n1",le="0.064",method="status"}"#,
                    "0x40",
                ),
                (
                    r#"openbao_kms_grpc_duration_seconds_bucket{job="kms",instance="n1",le="1.024",method="status"}"#,
                    "0+9x40",
                ),
                (
                    r#"openbao_kms_grpc_duration_seconds_bucket{job="kms",instance="n1",le="+Inf",method="status"}"#,
                    "0+9x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSConcurrencyRejected",
        labels: r#"instance="n1",job="kms",method="decrypt""#,
        firing: &[(
            r#"openbao_kms_grpc_concurrency_rejections_total{job="kms",instance="n1",method="decrypt"}"#,
            "0x25 1x20",
        )],
        silent: &[&[(
            r#"openbao_kms_grpc_concurrency_rejections_total{job="kms",instance="n1",method="decrypt"}"#,
            "1x40",
        )]],
    },
    Case {
        alert: "OpenBaoKMSPanics",
        labels: r#"instance="n1",job="kms",method="decrypt""#,
        firing: &[(
            r#"openbao_kms_panic_recoveries_total{job="kms",instance="n1",method="decrypt"}"#,
            "0x5 1x40",
        )],
        silent: &[&[(
            r#"openbao_kms_panic_recoveries_total{job="kms",instance="n1",method="decrypt"}"#,
            "0x40",
        )]],
    },
    Case {
        alert: "OpenBaoKMSStaleSocketRemoved",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"openbao_kms_socket_restarts_total{job="kms",instance="n1"}"#,
                "1x40",
            ),
            (
                r#"process_start_time_seconds{job="kms",instance="n1"}"#,
                "1500x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_socket_restarts_total{job="kms",instance="n1"}"#,
                    "1x40",
                ),
                (
                    r#"process_start_time_seconds{job="kms",instance="n1"}"#,
                    "0x40",
                ),
            ],
            &[
                (
                    r#"openbao_kms_socket_restarts_total{job="kms",instance="n1"}"#,
                    "0x40",
                ),
                (
                    r#"process_start_time_seconds{job="kms",instance="n1"}"#,
                    "1500x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSSocketEvictions",
        labels: r#"instance="n1",job="kms",reason="full""#,
        firing: &[(
            r#"openbao_kms_socket_evictions_total{job="kms",instance="n1",reason="full"}"#,
            "0x25 7x15",
        )],
        silent: &[&[(
            r#"openbao_kms_socket_evictions_total{job="kms",instance="n1",reason="full"}"#,
            "7x40",
        )]],
    },
    Case {
        alert: "OpenBaoKMSLogLinesDropped",
        labels: r#"instance="n1",job="kms""#,
        firing: &[(
            r#"openbao_kms_log_lines_dropped_total{job="kms",instance="n1"}"#,
            "0x25 9x15",
        )],
        silent: &[&[(
            r#"openbao_kms_log_lines_dropped_total{job="kms",instance="n1"}"#,
            "9x40",
        )]],
    },
    Case {
        alert: "OpenBaoKMSProcessRestarting",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (
                r#"process_start_time_seconds{job="kms",instance="n1"}"#,
                "0x20 100 200 300 300x20",
            ),
            (
                r#"openbao_kms_build_info{job="kms",instance="n1",version="1"}"#,
                "1x40",
            ),
        ],
        silent: &[
            &[
                (
                    r#"process_start_time_seconds{job="kms",instance="n1"}"#,
                    "0x20 100 200 200x20",
                ),
                (
                    r#"openbao_kms_build_info{job="kms",instance="n1",version="1"}"#,
                    "1x40",
                ),
            ],
            &[(
                r#"process_start_time_seconds{job="kms",instance="n1"}"#,
                "0x20 100 200 300 300x20",
            )],
        ],
    },
    Case {
        alert: "OpenBaoKMSTargetDown",
        labels: r#"instance="n1",job="kms""#,
        firing: &[
            (r#"up{job="kms",instance="n1"}"#, "1x5 0x40"),
            (
                r#"openbao_kms_build_info{job="kms",instance="n1",version="1"}"#,
                "1x5 _x40",
            ),
        ],
        silent: &[
            &[(r#"up{job="kms",instance="n1"}"#, "0x40")],
            &[
                (r#"up{job="kms",instance="n1"}"#, "1x40"),
                (
                    r#"openbao_kms_build_info{job="kms",instance="n1",version="1"}"#,
                    "1x40",
                ),
            ],
        ],
    },
    Case {
        alert: "OpenBaoKMSMetricsAbsent",
        labels: r#""#,
        firing: &[(r#"up{job="kms",instance="n1"}"#, "1x40")],
        silent: &[&[(
            r#"openbao_kms_build_info{job="kms",instance="n1",version="1"}"#,
            "1x40",
        )]],
    },
    Case {
        alert: "OpenBaoKMSBackupNotRestorable",
        labels: r#"fingerprint="f",verdict="incompatible""#,
        firing: &[
            (
                r#"openbao_kms_drill_last_verdict{job="node",instance="n1",fingerprint="f",verdict="incompatible"}"#,
                "0x10 1x30",
            ),
            (
                r#"openbao_kms_drill_last_verdict{job="node",instance="n1",fingerprint="f",verdict="compatible"}"#,
                "1x10 0x30",
            ),
        ],
        silent: &[
            &[
                (
                    r#"openbao_kms_drill_last_verdict{job="node",instance="n1",fingerprint="f",verdict="incompatible"}"#,
                    "1x10 0x30",
                ),
                (
                    r#"openbao_kms_drill_last_verdict{job="node",instance="n1",fingerprint="f",verdict="compatible"}"#,
                    "0x10 1x30",
                ),
            ],
            // Nothing was found out about the backups.
            &[(
                r#"openbao_kms_drill_last_verdict{job="node",instance="n1",fingerprint="f",verdict="inconclusive"}"#,
                "1x40",
            )],
        ],
    },
    Case {
        alert: "OpenBaoKMSBackupOutdated",
        labels: r#"fingerprint="f""#,
        firing: &[(
            r#"openbao_kms_drill_last_verdict{job="node",instance="n1",fingerprint="f",verdict="outdated"}"#,
            "0x10 1x30",
        )],
        silent: &[&[
            (
                r#"openbao_kms_drill_last_verdict{job="node",instance="n1",fingerprint="f",verdict="outdated"}"#,
                "1x10 0x30",
            ),
            (
                r#"openbao_kms_drill_last_verdict{job="node",instance="n1",fingerprint="f",verdict="incompatible"}"#,
                "0x10 1x30",
            ),
        ]],
    },
    // A drill that has never come to a good end has no success to grow old.
    Case {
        alert: "OpenBaoKMSRestoreUnproven",
        labels: r#"fingerprint="f""#,
        firing: &[(
            r#"openbao_kms_drill_last_run_timestamp_seconds{job="node",instance="n1",fingerprint="f"}"#,
            "0x40",
        )],
        silent: &[&[
            (
                r#"openbao_kms_drill_last_run_timestamp_seconds{job="node",instance="n1",fingerprint="f"}"#,
                "0x40",
            ),
            (
                r#"openbao_kms_drill_last_success_timestamp_seconds{job="node",instance="n2",fingerprint="f"}"#,
                "0x40",
            ),
        ]],
    },
    Case {
        alert: "OpenBaoKMSRestoreUnproven",
        labels: r#"fingerprint="f""#,
        firing: &[(
            r#"openbao_kms_drill_last_success_timestamp_seconds{job="node",instance="n1",fingerprint="f"}"#,
            "-691200x40",
        )],
        silent: &[
            &[(
                r#"openbao_kms_drill_last_success_timestamp_seconds{job="node",instance="n1",fingerprint="f"}"#,
                "-604800x40",
            )],
            // Another host has proven it since.
            &[
                (
                    r#"openbao_kms_drill_last_success_timestamp_seconds{job="node",instance="n1",fingerprint="f"}"#,
                    "-691200x40",
                ),
                (
                    r#"openbao_kms_drill_last_success_timestamp_seconds{job="node",instance="n2",fingerprint="f"}"#,
                    "0x40",
                ),
            ],
        ],
    },
];
