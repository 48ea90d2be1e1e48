"""Slow, obvious versions of what the package computes fast. They import none of it."""

import math

import numpy as np


def target_layers(x, *, weights, sources, means=None, stds=None):
    """S_1..S_L and G_1..G_L, sample by sample; normalised where means and stds are given."""
    depth = len(sources)
    preactivations = [[] for _ in range(depth)]
    features = [[] for _ in range(depth)]
    for row in x:
        below = [np.asarray(row)]
        for level in range(1, depth + 1):
            summed = 0.0
            for source in sources[level - 1]:
                summed = summed + weights[level, source] @ below[source]
            if means is not None:
                summed = summed / math.sqrt(len(sources[level - 1]))
            squared = np.array([entry * entry for entry in summed])
            if means is not None:
                squared = (squared - means[level - 1]) / stds[level - 1]
            preactivations[level - 1].append(summed)
            features[level - 1].append(squared)
            below.append(squared)
    return [np.stack(rows) for rows in preactivations], [np.stack(rows) for rows in features]


def target_levels(features, *, signs, scales, normalize):
    """alpha_l w_l^T G_l, over sqrt(k_l) where normalised: one column a level."""
    columns = []
    for feature, sign, scale in zip(features, signs, scales, strict=True):
        column = []
        for row in feature:
            total = sum(float(s) * float(entry) for s, entry in zip(sign, row, strict=True))
            column.append(scale * total / (math.sqrt(len(sign)) if normalize else 1.0))
        columns.append(column)
    return np.array(columns).T


def learner(x, *, blocks, biases, readouts, scales, constant, linear=None, activation=np.square):
    """f(x) = c + <u, x> + sum_l a_l m_l^(-1/2) v_l^T F_l(x), neuron by neuron."""
    outputs = []
    for row in x:
        layers = [np.asarray(row)]
        total = constant + (0.0 if linear is None else float(np.dot(linear, row)))
        for level, (bias, readout, scale) in enumerate(
            zip(biases, readouts, scales, strict=True), start=1
        ):
            width = len(bias)
            feature = np.zeros(width)
            for neuron in range(width):
                z = bias[neuron]
                for source in range(level):
                    z = z + float(np.dot(blocks[level, source][neuron], layers[source]))
                feature[neuron] = activation(z)
                total += scale / math.sqrt(width) * readout[neuron] * feature[neuron]
            layers.append(feature)
        outputs.append(total)
    return np.array(outputs)


def penalty(blocks, coefficients):
    """sum_l lambda_l sum_j |V_{l,j}|_F^2, entry by entry."""
    total = 0.0
    for (level, _), block in blocks.items():
        for entry in block.flatten():
            total += coefficients[level - 1] * float(entry) ** 2
    return total


def orthogonal_levels(levels):
    """Each centred level minus its least-squares fit on all lower ones."""
    centred = levels - levels.mean(axis=0)
    columns = [centred[:, 0]]
    for level in range(1, levels.shape[1]):
        lower = centred[:, :level]
        fit, *_ = np.linalg.lstsq(lower, centred[:, level], rcond=None)
        columns.append(centred[:, level] - lower @ fit)
    return np.stack(columns, axis=1)


def level_components(levels):
    """g_l: the projection of G on h_l."""
    orthogonal = orthogonal_levels(levels)
    total = levels.sum(axis=1)
    columns = [h * np.dot(total - total.mean(), h) / np.dot(h, h) for h in orthogonal.T]
    return np.stack(columns, axis=1)


def level_residuals(prediction, levels):
    """(E[(f - G) g_l] / E[g_l^2])^2, level by level."""
    error = prediction - levels.sum(axis=1)
    return np.array([
        (np.mean(error * g) / np.mean(g * g)) ** 2 for g in level_components(levels).T
    ])


def standard_errors_off(samples, expected):
    """How many standard errors each column's mean lies from what is expected of it."""
    samples = np.asarray(samples)
    error = samples.std(axis=0) / math.sqrt(len(samples))
    return np.abs(samples.mean(axis=0) - np.asarray(expected)) / error
