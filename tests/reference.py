"""Slow, obvious versions of what the package computes fast. They import none of it."""

import math

import numpy as np
import torch


def target_layers(x, *, weights, sources, means=None, stds=None):
    """S_1..S_L and G_1..G_L, sample by sample; normalized where means and stds are given."""
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
    """alpha_l w_l^T G_l, over sqrt(k_l) where normalized: one column a level."""
    columns = []
    for feature, sign, scale in zip(features, signs, scales, strict=True):
        column = []
        for row in feature:
            total = sum(float(s) * float(entry) for s, entry in zip(sign, row, strict=True))
            column.append(scale * total / (math.sqrt(len(sign)) if normalize else 1.0))
        columns.append(column)
    return np.array(columns).T


def paper_layers(x, *, weights, sources, square_means):
    """S_1..S_L and G_1..G_L entry by entry, with G_1 = x^2 - E x^2; `sources` maps l to J_l."""
    depth = max(sources)
    preactivations = [[] for _ in range(depth)]
    features = [[] for _ in range(depth)]
    for row in x:
        layers = [list(row), [e * e - mean for e, mean in zip(row, square_means, strict=True)]]
        sums = [list(row)]
        for level in range(2, depth + 1):
            width = len(weights[level, level - 1])
            summed = [
                sum(
                    weights[level, source][i][k] * layers[source][k]
                    for source in sources[level]
                    for k in range(len(layers[source]))
                )
                for i in range(width)
            ]
            sums.append(summed)
            layers.append([entry * entry for entry in summed])
        for level in range(1, depth + 1):
            preactivations[level - 1].append(sums[level - 1])
            features[level - 1].append(layers[level])
    return [np.array(rows) for rows in preactivations], [np.array(rows) for rows in features]


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


def orthogonal_levels(levels):
    """Each centered level minus its least-squares fit on all lower ones."""
    centered = levels - levels.mean(axis=0)
    columns = [centered[:, 0]]
    for level in range(1, levels.shape[1]):
        lower = centered[:, :level]
        fit, *_ = np.linalg.lstsq(lower, centered[:, level], rcond=None)
        columns.append(centered[:, level] - lower @ fit)
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


def probe_residual(features, wanted):
    """1 - R^2 on the second half, of a ridge regression on the first; averaged over columns."""
    half = len(features) // 2
    kept = [j for j in range(features.shape[1]) if np.ptp(features[:half, j]) > 0]
    means = np.array([np.mean(features[:half, j]) for j in kept])
    stds = np.array([np.std(features[:half, j]) for j in kept])
    standard = (features[:, kept] - means) / stds
    fitted, scored = standard[:half], standard[half:]
    residuals = []
    for column in wanted.T:
        mean = np.mean(column[:half])
        normal = fitted.T @ fitted + 1e-6 * half * np.eye(len(kept))
        slope = np.linalg.solve(normal, fitted.T @ (column[:half] - mean))
        error = column[half:] - (scored @ slope + mean)
        spread = column[half:] - np.mean(column[half:])
        residuals.append(np.sum(error**2) / np.sum(spread**2))
    return np.mean(residuals)


def feature_leakage(preactivations, wanted):
    """1 - sum Var(fit) / sum Var(Z) on the second half, least squares on the first."""
    half = len(wanted) // 2
    known = np.column_stack([np.ones(len(wanted)), wanted])
    explained = total = 0.0
    for column in preactivations.T:
        slope, *_ = np.linalg.lstsq(known[:half], column[:half], rcond=1e-10)
        explained += np.var(known[half:] @ slope)
        total += np.var(column[half:])
    return 1 - explained / total


def weight_leakage(weight, target_weight):
    """1 - |V P|^2 / |V|^2 with the projector written out."""
    projector = np.linalg.pinv(target_weight, rcond=1e-10) @ target_weight
    return 1 - np.sum((weight @ projector) ** 2) / np.sum(weight**2)


def consumed_leakage(first_weight, second_weight, readout, target_weight):
    """1 - sum |v_i| |P Q_i P|^2 / sum |v_i| |Q_i|^2 with every form Q_i written out."""
    projector = np.linalg.pinv(target_weight, rcond=1e-10) @ target_weight
    inside = everything = 0.0
    for row, sign in zip(second_weight, readout, strict=True):
        form = sum(q * np.outer(v, v) for q, v in zip(row, first_weight, strict=True))
        inside += abs(sign) * np.sum((projector @ form @ projector) ** 2)
        everything += abs(sign) * np.sum(form**2)
    return 1 - inside / everything


def richness(features, preactivations):
    """(sum s^2)^2 / sum s^4, s the singular values of the coefficients on whitened products."""
    n, k = preactivations.shape
    products = [preactivations[:, a] * preactivations[:, b] for a in range(k) for b in range(a, k)]
    centered = np.stack([product - np.mean(product) for product in products], axis=1)
    left, singular, _ = np.linalg.svd(centered, full_matrices=False)
    whitened = left[:, singular > 1e-10 * singular[0]] * math.sqrt(n)
    varying = [column for column in features.T if np.ptp(column) > 0]
    standard = np.stack([(c - np.mean(c)) / np.std(c) for c in varying], axis=1)
    coefficients, *_ = np.linalg.lstsq(whitened, standard, rcond=None)
    s = np.linalg.svd(coefficients, compute_uv=False)
    return np.sum(s**2) ** 2 / np.sum(s**4)


def tangent_kernel(outputs, parameters):
    """J J^T, with the Jacobian of every sample by autograd; an unused parameter has gradient 0."""
    rows = []
    for output in outputs:
        gradients = torch.autograd.grad(
            output, parameters, retain_graph=True, materialize_grads=True
        )
        rows.append(np.concatenate([gradient.numpy().flatten() for gradient in gradients]))
    jacobian = np.stack(rows)
    return jacobian @ jacobian.T


def standard_errors_off(samples, expected):
    """How many standard errors each column's mean lies from what is expected of it."""
    samples = np.asarray(samples)
    error = samples.std(axis=0) / math.sqrt(len(samples))
    return np.abs(samples.mean(axis=0) - np.asarray(expected)) / error


def training_steps(
    network,
    batches,
    *,
    loss_of,
    optimizer,
    schedule=None,
    regularization=(),
    clip=None,
    progress=lambda step: 0.0,
):
    """Optimizer steps as in any tutorial: autograd, PyTorch's own clipping, one batch at a time."""
    losses = []
    for step, (x, y) in enumerate(batches):
        loss = loss_of(network(x), y, progress(step))
        active = network.layers[: network.active_depth]
        for coefficient, layer in zip(regularization, active, strict=False):
            loss = loss + coefficient * (layer.weight**2).sum()
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            how, bound = clip
            parameters = list(network.parameters())
            if how == "norm":
                torch.nn.utils.clip_grad_norm_(parameters, bound)
            else:
                torch.nn.utils.clip_grad_value_(parameters, bound)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(float(loss.detach()))
    return losses


def finite_differences(function, parameters, width=1e-6):
    """Central differences of a scalar by every entry of every parameter."""
    slopes = []
    for parameter in parameters:
        slope = torch.zeros_like(parameter)
        for index in np.ndindex(*parameter.shape):
            values = []
            for sign in (1, -1):
                parameter[index] += sign * width
                values.append(float(function()))
                parameter[index] -= sign * width
            slope[index] = (values[0] - values[1]) / (2 * width)
        slopes.append(slope)
    return slopes


def residual_off_polynomials(x, values, degree):
    """What least squares on all monomials of at most this degree leaves of centered values."""
    columns = [np.ones(len(x))]
    for powers in np.ndindex(*[degree + 1] * x.shape[1]):
        if 0 < sum(powers) <= degree:
            columns.append(np.prod([x[:, i] ** p for i, p in enumerate(powers)], axis=0))
    monomials = np.stack(columns, axis=1)
    centered = values - values.mean()
    fit, *_ = np.linalg.lstsq(monomials, centered, rcond=None)
    return float(((centered - monomials @ fit) ** 2).sum())


def phased_training(run, phases, rate):
    """The weights of a quadratic learner after SGD in phases, on the samples of a run."""
    initial = {name: value.detach() for name, value in run.network.named_parameters()}
    parameters = {name: value.clone().requires_grad_() for name, value in initial.items()}
    stream = run.data.make_stream("cpu", torch.float64)
    for phase in phases:
        fixed = set(range(1, run.network.depth + 1)).difference(phase.trained)
        prefixes = tuple(f"layers.{level - 1}." for level in fixed)
        moved = [name for name in parameters if not name.startswith(prefixes)]
        earlier = parameters["layers.0.weight"].detach()
        if phase.is_fresh:
            parameters |= {name: initial[name].clone().requires_grad_() for name in moved}
        for step in range(phase.start, phase.stop):
            x, _, _ = stream.batch("train", step, run.data.batch_size)
            output, known = parameters["constant"], x
            for level in range(phase.depth):
                names = (f"layers.{level}.{name}" for name in ("weight", "bias", "readout"))
                weight, bias, readout = (parameters[name] for name in names)
                features = (known @ weight.T + bias) ** 2
                is_cut = phase.cut == "readout" and level + 1 < phase.depth
                read = features.detach() if is_cut else features
                output = output + run.network.scales[level] * read @ readout
                passed = features.detach() if phase.cut == "features" else features
                known = torch.cat([known, passed], dim=1)
            y = run.target.level_outputs(x)[:, : phase.taught].sum(dim=1)
            loss = (output - y).square().mean() / run.target.variance
            loss = loss + phase.pull * (parameters["layers.0.weight"] - earlier).square().sum()
            slopes = torch.autograd.grad(loss, [parameters[name] for name in moved])
            for name, slope in zip(moved, slopes, strict=True):
                value = parameters[name].detach() - rate * phase.lr_factor * slope
                parameters[name] = value.requires_grad_()
    return {f"network.{name}": value.detach() for name, value in parameters.items()}
