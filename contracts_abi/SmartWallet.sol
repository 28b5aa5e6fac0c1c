// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title A wallet that is a contract: one owner, ERC-1271 signatures, calls on the owner's word.
/// @notice For tests of payers that have code. The owner is part of the code, not of storage, so the runtime
/// of a deployed wallet may also be delegated to (EIP-7702) and still know its owner.
contract SmartWallet {
    address public immutable owner;

    event Executed(address indexed to, uint256 value, bytes data);

    constructor(address walletOwner) payable {
        require(walletOwner != address(0), "SmartWallet: owner is the zero address");
        owner = walletOwner;
    }

    receive() external payable {}

    /// @notice ERC-1271: the selector if the owner's key made this 65-byte signature over `digest`, else zeros.
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 65) return bytes4(0);
        address signer = ecrecover(
            digest, uint8(signature[64]), bytes32(signature[0:32]), bytes32(signature[32:64])
        );
        return signer == owner ? this.isValidSignature.selector : bytes4(0);
    }

    /// @notice Perform one call as this wallet; its refusal is passed on unchanged.
    function execute(address to, uint256 value, bytes calldata data) external returns (bytes memory answer) {
        require(msg.sender == owner, "SmartWallet: caller is not the owner");
        bool done;
        (done, answer) = to.call{value: value}(data);
        if (!done) {
            assembly ("memory-safe") {
                revert(add(answer, 0x20), mload(answer))
            }
        }
        emit Executed(to, value, data);
    }
}
