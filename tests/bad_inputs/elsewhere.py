"""Numbers of the list whose tests are more than a row, and where they stand."""

WHERE: dict[str, list[str]] = {
    "41": ["test_cli.py::test_strangers_cannot_write_to_the_terminal"],
    "47": ["test_config.py::test_files_that_are_none"],
    "48": ["test_checkpoint.py::test_a_file_cut_short_after_opening"],
    "50": ["test_hub_download.py::test_an_index_may_name_files_beside_it_only"],
    "54": ["test_checkpoint.py::test_the_links_of_a_hub_cache_are_followed"],
    "63": ["test_load.py::test_a_file_of_another_format"],
    "66": [
        "test_vocabulary.py::test_cut_files",
        "test_vocabulary.py::test_any_value_of_another_kind",
        "test_vocabulary.py::test_bomb",
    ],
    "67": [
        "test_tokenizer.py::test_odd_text",
        "test_tokenizer.py::test_long_text_goes_to_a_child",
        "test_tokenizer.py::test_byte_level_loses_nothing",
    ],
    "68": ["test_model.py::test_ids_of_any_integer_kind", "test_core.py::test_bad_ids"],
    "69": ["test_model.py::test_the_longest_prompt_fits"],
    "70": [
        "test_template.py::test_hostile_template",
        "test_template.py::test_no_usable_template",
        "test_template.py::test_broken_files",
    ],
    "71": [
        "test_tokenizer.py::test_special_tokens_in_messages_are_plain_text",
        "test_tokenizer.py::test_no_message_can_inject_a_special_token",
    ],
    "72": [
        "test_hub_secrets.py::test_repository_ids_that_are_none",
        "test_hub_secrets.py::test_revisions_that_are_none",
    ],
    "73": ["test_hub_faults.py::test_errors_tell_the_next_step"],
    "74": [
        "test_hub_faults.py::test_the_servers_own_wait_is_obeyed",
        "test_hub_faults.py::test_the_hub_itself_may_be_busy",
        "test_hub_faults.py::test_a_cdn_that_stays_broken",
    ],
    "75": ["test_hub_faults.py::test_headers_that_cannot_be_trusted"],
    "76": ["test_hub_faults.py::test_only_the_rest_is_fetched"],
    "77": [
        "test_hub_faults.py::test_ranges_go_wrong_and_are_cured",
        "test_hub_faults.py::test_wrong_ranges_for_ever_end",
        "test_hub_faults.py::test_a_server_without_ranges",
    ],
    "78": ["test_hub_faults.py::test_flipped_bytes_for_ever"],
    "79": ["test_hub_faults.py::test_another_try_cures"],
    "80": ["test_hub_faults.py::test_a_login_page_instead_of_the_hub"],
    "81": [
        "test_hub_secrets.py::test_redirects_that_are_refused",
        "test_hub_secrets.py::test_redirects_in_circles",
        "test_hub_secrets.py::test_a_redirect_to_another_port_gets_no_token",
    ],
    "82": ["test_hub_secrets.py::test_a_netrc_file_neither_replaces_nor_adds"],
    "83": [
        "test_hub_processes.py::test_two_processes_do_the_work_once",
        "test_hub_processes.py::test_killed_at_fifty_moments",
    ],
    "84": ["test_hub_processes.py::test_a_full_disk_keeps_what_came"],
    "85": ["test_hub_download.py::test_offline_with_and_without_files"],
    "86": [
        "test_hub_faults.py::test_a_listing_with_a_name_that_is_never_honest",
        "test_hub_faults.py::test_chosen_names_that_some_system_cannot_hold",
    ],
    "87": ["test_hub_faults.py::test_pages_that_do_not_end"],
    "88": [
        "test_export.py::test_names_that_cannot_be_file_names",
        "test_files.py::test_tensor_names_become_file_names",
        "test_files.py::test_long_and_colliding_names_stay_apart",
    ],
    "89": ["test_export.py::test_choices_that_make_no_sense"],
    "90": [
        "test_files.py::test_wrong_arguments_write_nothing",
        "test_files.py::test_what_exists_is_not_overwritten",
        "test_files.py::test_links_are_replaced_and_not_followed",
        "test_export_resume.py::test_a_file_of_somebody_else_is_not_overwritten",
    ],
    "91": [
        "test_hub_processes.py::test_control_c_ends_it_soon_and_it_can_go_on",
    ],
    "92": [
        "test_cli.py::test_a_full_stdout_is_an_error",
        "test_files.py::test_a_writer_that_runs_out_of_file_size_names_the_file",
        "test_export_resume.py::test_a_limit_on_file_size_names_the_file",
    ],
    "93": [
        "test_export.py::test_every_16_bit_word_is_written_exactly",
        "test_export.py::test_every_dtype_that_numpy_has_is_exact",
        "test_export.py::test_raw_words",
        "test_export.py::test_shapes",
    ],
    "94": [
        "test_text.py::test_ten_million_floats_read_back",
        "test_text.py::test_edges_are_spelled_as_numpy_spells_them",
    ],
    "96": [
        "test_threads.py::test_a_child_process_computes_the_same",
        "test_threads.py::test_a_fork_while_another_thread_computes",
        "test_threads.py::test_eight_threads_share_a_model",
        "test_threads.py::test_a_signal_stops_a_run_and_leaves_the_model_usable",
        "test_threads.py::test_closing_while_a_run_is_under_way",
        "test_threads.py::test_use_after_close",
        "test_threads.py::test_arrays_outlive_model_and_run",
    ],
    "97": ["test_package.py::test_bad_thread_counts", "test_core.py::test_bad_threads"],
}
