# An overnight run from PowerShell. Edit the block below, then:
#
#     .\training.ps1
#
# Started again with the same $outDir it goes on with that run, and of what stands below only $limits counts then.
# The exit code is that of run_training.py: 0 target reached, 1 a notebook failed, 2 bad arguments, 3 stopped by a limit,
# 4 a run was not reproduced, 130 stopped by you, 138 the kernel died.

# ---- what to run -----------------------------------------------------------------------------------------------------
$outDir = 'runs/overnight'
$recipe = @(
    '--preset', 'full'
)
$limits = @(
    '--max_hours', '9'
    '--save_every', '20'
)
# ----------------------------------------------------------------------------------------------------------------------

Set-Location -LiteralPath $PSScriptRoot
$python = @('.venv\Scripts\python.exe', '.venv/bin/python') | Where-Object { Test-Path -LiteralPath $_ } |
    Select-Object -First 1
if (-not $python) {
    Write-Error 'There is no .venv here, also not where conda was used: python -m venv .venv; .venv\Scripts\pip install -e .'
    exit 2
}

if (Test-Path -LiteralPath "$outDir/config.json") {
    $trainArgs = @('--resume', $outDir) + $limits
} else {
    $trainArgs = @('--out_dir', $outDir) + $recipe + $limits
}

& $python run_training.py @trainArgs
exit $LASTEXITCODE
