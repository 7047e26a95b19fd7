"""What tests of the suite hold, and what does not concern this service."""

from deploy.faults.table import Fault

ROTATION = "tests/tokens/test_rotation.py"
WIRE = "tests/wire/test_bad_input.py"
SIGNER = "tests/crypto/test_signer.py"

FAULTS = (
    Fault(
        15,
        "stale replica",
        "",
        "never read for introspection",
        elsewhere="no replica is ever read: every command goes to the primary",
    ),
    Fault(
        20,
        "deadlock",
        "rows changed in opposite order",
        "no deadlock, no 500",
        tests=(
            "tests/mail/test_outbox_races.py::test_claims_at_the_same_moment_share_the_mails_without_waiting_and_without_any_twice",
            "tests/accounts/test_password_change_races.py::test_of_two_changes_at_once_one_wins",
            f"{ROTATION}::TestRevocation::test_sixty_races_of_admission_and_disabling_leave_nothing_alive",
        ),
    ),
    Fault(
        27,
        "retry by a library",
        "the same refresh token again",
        "no false theft",
        tests=(
            f"{ROTATION}::TestRetriesAndRaces::test_a_lost_answer_can_be_asked_for_again",
            f"{ROTATION}::TestRetriesAndRaces::test_inside_the_grace_a_retry_is_answered_although_the_successor_was_seen",
        ),
    ),
    Fault(
        28,
        "stolen token",
        "two generations old",
        "the family ends at once, and the trail says so",
        tests=(
            f"{ROTATION}::TestReplay::test_a_token_two_generations_old_ends_the_family_even_inside_the_grace",
            "tests/oauth/test_introspect.py::test_a_session_that_a_replay_ended_is_inactive",
            "tests/test_audit.py::test_a_refresh_token_that_comes_back_late_is_noted_as_reused",
        ),
    ),
    Fault(34, "deep JSON", "20 k levels", "400", tests=(f"{WIRE}::test_json_with_no_or_two_meanings_is_refused",)),
    Fault(
        35,
        "invalid UTF-8",
        "in JSON, form, path, header",
        "400",
        tests=(
            f"{WIRE}::test_json_with_no_or_two_meanings_is_refused",
            f"{WIRE}::test_a_form_that_is_repeated_unreadable_or_without_token_is_an_invalid_request",
            f"{WIRE}::test_a_path_that_is_no_text_does_not_stop_the_server",
            f"{WIRE}::test_odd_bytes_in_a_header_are_never_a_crash",
        ),
    ),
    Fault(
        36,
        "NUL in a name",
        "\\u0000, %00",
        "400",
        tests=(
            f"{WIRE}::test_no_odd_text_in_any_field_is_more_than_a_refusal",
            f"{WIRE}::test_an_odd_path_is_never_a_crash",
        ),
    ),
    Fault(
        37,
        "odd JSON",
        "surrogates, NaN, BOM, doubled keys",
        "400",
        tests=(f"{WIRE}::test_json_with_no_or_two_meanings_is_refused",),
    ),
    Fault(
        38,
        "doubled parameters",
        "token=a&token=b",
        "400",
        tests=(f"{WIRE}::test_a_form_that_is_repeated_unreadable_or_without_token_is_an_invalid_request",),
    ),
    Fault(
        39,
        "endless forms",
        "5 k fields; bodies over 64 KiB",
        "400, 413",
        tests=(
            f"{WIRE}::test_a_form_that_is_repeated_unreadable_or_without_token_is_an_invalid_request",
            f"{WIRE}::test_a_body_over_64_kib_is_refused",
        ),
    ),
    Fault(
        40,
        "JSON by another name",
        "text/plain",
        "415",
        tests=(f"{WIRE}::test_a_body_that_does_not_say_it_is_json_is_refused",),
    ),
    Fault(
        41,
        "smuggling",
        "two readings of one message; endless heads",
        "400, 431",
        tests=(
            f"{WIRE}::test_a_message_with_two_readings_is_refused_and_nothing_behind_it_is_served",
            f"{WIRE}::test_headers_without_end_are_refused_at_once",
            f"{WIRE}::test_a_request_names_its_host_once",
        ),
    ),
    Fault(42, "odd paths", "//, %2f, ..", "never a crash", tests=(f"{WIRE}::test_an_odd_path_is_never_a_crash",)),
    Fault(
        43,
        "forged tokens",
        "alg none, HS256, odd kid, odd claims",
        "inactive, never a crash",
        tests=(
            f"{SIGNER}::test_an_unsigned_token_is_refused",
            f"{SIGNER}::test_a_token_keyed_with_our_public_key_is_refused",
            f"{SIGNER}::test_a_key_id_that_is_not_one_of_ours_is_refused",
            f"{SIGNER}::test_no_header_and_payload_whatsoever_is_a_crash",
            f"{SIGNER}::test_eight_megabytes_are_refused_at_once",
        ),
    ),
    Fault(
        44,
        "endless passwords",
        "60 kB and more",
        "refused by name, or 413",
        tests=(
            f"{WIRE}::test_a_text_of_sixty_thousand_characters_is_refused_by_name",
            f"{WIRE}::test_a_body_over_64_kib_is_refused",
        ),
    ),
    Fault(
        48,
        "index and a waiting pod",
        "several migrators",
        "no deadlock: one transaction under one lock",
        tests=(
            "tests/cli/test_production.py::test_several_migrators_make_one_schema_with_its_first_keys_and_front_end",
        ),
    ),
    Fault(
        51,
        "DNS gone",
        "",
        "existing connections live on",
        elsewhere="not here: the stores of this run have numbers and sockets, no names; "
        "tests/social/test_calls.py has hung name servers",
    ),
)
