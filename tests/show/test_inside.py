"""What a look inside a model answers, in words."""
import numpy as np

from lib.show import inside


def test_a_habit_forms_is_there_from_the_start_or_does_not_form():
    heads = {"the token before": (0, 1, 0.9), "the first token": (1, 0, 0.4), "the same token earlier": (1, 1, 0.12)}
    began = {"the token before": (0, 1, 0.8), "the first token": (1, 0, 0.05), "the same token earlier": (0, 0, 0.1)}
    assert inside.habits(heads, began) == ("Formed in training: the first token; there from the start: the token "
                                           "before; not formed: the same token earlier.")


def test_a_prediction_comes_about_at_some_depth_or_at_none():
    told = inside.depth([10.0, 8.0, 4.0, 1.0], [0, 0.1, 0.5, 1])
    assert told == ("The loss falls from 10.00 before the first block to 1.00 after the last; half of that is done "
                    "after block 2 of 3, when 50% of the tokens would be right.")
    assert inside.depth([10.0, 9.9], [0, 0]).endswith("9.90 after the last: hardly less.")


def test_what_the_blocks_do_comes_about_in_training():
    assert inside.depth_over_time([5, 1000], [[10.0, 10.5, 10.0], [9.0, 4.0, 1.0]]) == (
        "At step 5 the blocks bring the loss from 10.00 to 10.00; at step 1,000 the blocks bring the loss from 9.00 to "
        "1.00, half of that after block 1 of 2.")
    assert inside.depth_over_time([5], [[10.0, 9.0]]) == "The blocks were asked only once."


def test_neighbours_are_used_alike_or_are_not():
    tokens = np.array([1, 7, 2, 1, 8, 2, 1, 7, 2, 1, 8, 2, 3, 9, 4, 3, 9, 4, 5], np.uint16)  # 7 and 8 between 1 and 2
    assert ("100% stand beside the other, too; 0% where others as frequent take the neighbours' places, 0% in the "
            in inside.used_alike(tokens, [7], [[8]], [[9]]))
    assert inside.used_alike(tokens, [7], [[8]], [[9]]).endswith("tokens used alike point the same way.")
    assert inside.used_alike(tokens, [7], [[9]], [[8]]).endswith("cannot be seen here.")
    assert inside.used_alike(tokens, [7], [[9]], [[9]]).endswith("nothing can be seen here.")
    anything = np.array([1, 7, 2, 1, 8, 2, 1, 9, 2] * 2, np.uint16)  # whatever is as frequent is used so, too
    assert inside.used_alike(anything, [7], [[8]], [[1]]).endswith("cannot be seen here.")
